"""Are two models the same? What was compared, and the verdict."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from bnfold.records.common import SCHEMA, DataRecord, Environment, FileRecord, Report


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


@dataclass(frozen=True)
class BatchDependence:
    """A model whose output for a sample depends on the other samples of its batch, as with batch statistics.

    The same ``samples`` were run one by one and together. ``relative_difference`` is the largest difference of
    ``output``, relative to its largest value. ``agreeing`` predictions are the same; there are ``distinct_alone``
    different ones among those one by one, and ``distinct_together``. None where no output holds scores.
    """

    model: Literal["original", "folded"]
    output: str
    samples: int
    relative_difference: float
    agreeing: int | None
    distinct_alone: int | None
    distinct_together: int | None


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
    batch_dependence: tuple[BatchDependence, ...] = ()
    passed: bool
    warnings: tuple[str, ...] = ()
