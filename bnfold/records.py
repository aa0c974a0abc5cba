"""The reports: frozen, plain data, and their JSON form. Measuring, judging and printing happen elsewhere.

The JSON Schema in ``report.schema.json`` is generated from these classes; a test holds the two together.
Every measured number carries its unit in its name (``_ms``, ``_bytes``); numbers without one have none.
"""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass, field
from typing import Literal

SCHEMA = "bnfold.report/1"

Verdict = Literal["folded", "kept"]
Form = Literal["operator", "decomposed"]
Speed = Literal["faster", "slower", "no difference"]


@dataclass(frozen=True)
class InputSpec:
    """An example input as the user describes it: ``[NAME=]1x3x224x224[:f32]``."""

    shape: tuple[int, ...]
    dtype: str = "float32"
    name: str | None = None


@dataclass(frozen=True)
class FileRecord:
    """A model file. ``sha256`` is of this file alone; ``external`` lists the data files beside it with their sizes."""

    path: str
    format: str
    sha256: str
    bytes: int
    external: tuple[ExternalRecord, ...] = ()


@dataclass(frozen=True)
class ExternalRecord:
    """A file of external data that belongs to a model."""

    path: str
    bytes: int


@dataclass(frozen=True)
class ReasonRecord:
    """Why a batch norm was kept: the code, the place, and what the user can do."""

    code: str
    slug: str
    at: str
    detail: str
    remedy: str


@dataclass(frozen=True)
class BatchNormRecord:
    """The verdict on one batch norm. ``scale_range`` is the smallest and largest γ/√(σ²+ε) of its channels."""

    name: str
    form: Form
    verdict: Verdict
    rule: str | None = None
    into: tuple[str, ...] = ()
    scale_range: tuple[float, float] | None = None
    warnings: tuple[str, ...] = ()
    reason: ReasonRecord | None = None


@dataclass(frozen=True)
class NodeCount:
    """The number of operators before and after."""

    before: int
    after: int


@dataclass(frozen=True)
class Environment:
    """Where something was measured: versions of the packages that took part, the processor, the threads used."""

    python: str
    platform: str
    processor: str
    cpu_count: int
    threads: int | None
    packages: dict[str, str]


class Report:
    """What every report can do."""

    def to_dict(self) -> dict[str, object]:
        """The report as JSON-ready data; NaN and infinities become null (JSON has no word for them)."""
        plain = _plain(self)
        assert isinstance(plain, dict)  # noqa: S101 - _plain turns a dataclass into a dict
        return plain

    def to_json(self) -> str:
        """The report as a JSON document, two spaces deep, with its ``schema`` key first."""
        return json.dumps(self.to_dict(), indent=2, allow_nan=False)


@dataclass(frozen=True, kw_only=True)
class PlanReport(Report):
    """The verdicts on every batch norm of a model: what ``inspect`` prints, and the head of ``convert``'s report."""

    schema: str = SCHEMA
    command: str
    version: str
    source: FileRecord
    found: int
    folded: int
    kept: int
    also_folded: int = 0
    batch_norms: tuple[BatchNormRecord, ...]
    nodes: NodeCount
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class InspectReport(PlanReport):
    """What ``inspect`` found; nothing was written."""

    command: str = "inspect"


@dataclass(frozen=True, kw_only=True)
class ConvertReport(PlanReport):
    """What ``convert`` did. ``output`` is None when nothing was written (``--dry-run``, ``--check``, a failure)."""

    command: str = "convert"
    output: FileRecord | None = None
    verification: VerifyReport | None = None
    timing: BenchReport | None = None


@dataclass(frozen=True)
class OutputDifference:
    """How far one output of the folded model is from the original's, over all samples.

    ``relative_error`` is max|a − b| / max|a|; ``smallest_passing_tolerance`` is the smallest value of ``tolerance``
    with which this output would have passed, None where no tolerance would (NaN or Inf in other places).
    ``rounding_error`` is how far the original's own output moves, relative to max|a|, when its inputs move by one ulp.
    """

    name: str
    dtype: str
    max_abs_error: float
    mean_abs_error: float
    max_abs_value: float
    relative_error: float
    rounding_error: float
    tolerance: float
    smallest_passing_tolerance: float | None
    nan_count: int
    inf_count: int
    same_nan: bool
    same_inf: bool
    passed: bool


@dataclass(frozen=True)
class Comparison:
    """All outputs of two models compared in one pair of runtimes (``runtime`` says which, and how configured).

    ``differences`` states in words what cannot be compared: an input or output that only one model has, or whose
    shape or type is another. A single one means that the models differ.
    """

    runtime: str
    outputs: tuple[OutputDifference, ...]
    passed: bool
    differences: tuple[str, ...] = ()


@dataclass(frozen=True)
class DataRecord:
    """The inputs that were used: ``scale``, ``mean`` and ``std`` turn raw pixels into (x / scale − mean) / std."""

    name: str
    samples: int
    batch: int
    labelled: bool
    seed: int | None = None
    scale: float | None = None
    mean: float | None = None
    std: float | None = None


@dataclass(frozen=True)
class AccuracyRecord:
    """Top-1 accuracy of both models on labelled data; ``flipped`` are the samples whose prediction changed."""

    samples: int
    original_correct: int
    folded_correct: int
    original_accuracy: float
    folded_accuracy: float
    flips: int
    flipped: tuple[int, ...]
    max_flips: int
    max_accuracy_drop: float | None
    passed: bool


@dataclass(frozen=True)
class LayerError:
    """With ``--layers``: how far an inner value is from the original's, in graph order."""

    name: str
    max_abs_error: float
    relative_error: float


@dataclass(frozen=True, kw_only=True)
class VerifyReport(Report):
    """Are two models the same network? ``passed`` is the verdict; ``as_deployed`` only warns."""

    schema: str = SCHEMA
    command: str = "verify"
    version: str
    source: FileRecord
    output: FileRecord
    environment: Environment
    data: DataRecord
    as_written: Comparison
    as_deployed: Comparison | None
    accuracy: AccuracyRecord | None
    layers: tuple[LayerError, ...] = ()
    passed: bool
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Timing:
    """The time of one model in one case.

    ``ratio`` is this model's time / the original's, pair by pair (median), with its bootstrap 95 % interval; None for
    the original itself.
    """

    model: str
    median_ms: float
    p90_ms: float
    mad_ms: float
    samples_ms: tuple[float, ...]
    ratio: float | None = None
    ratio_low: float | None = None
    ratio_high: float | None = None
    verdict: Speed | None = None


@dataclass(frozen=True)
class BenchCase:
    """One runtime and batch size: the original's timing first, then each other model's."""

    runtime: str
    batch: int
    timings: tuple[Timing, ...]
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class BenchReport(Report):
    """Which model is faster? Paired timings, every raw sample kept."""

    schema: str = SCHEMA
    command: str = "bench"
    version: str
    source: FileRecord
    outputs: tuple[FileRecord, ...]
    environment: Environment
    cases: tuple[BenchCase, ...]
    fail_if_slower_percent: float | None = None
    passed: bool = True
    warnings: tuple[str, ...] = field(default=())


def _plain(value: object) -> object:
    """Dataclasses to dicts, tuples to lists, non-finite floats to None."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {item.name: _plain(getattr(value, item.name)) for item in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
