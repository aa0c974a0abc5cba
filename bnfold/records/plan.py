"""The verdicts on a model's batch norms: the reports of ``inspect`` and ``convert``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from bnfold.records.bench import BenchReport
from bnfold.records.common import SCHEMA, FileRecord, Report
from bnfold.records.verify import VerifyReport

Verdict = Literal["folded", "kept"]
Form = Literal["operator", "decomposed"]


@dataclass(frozen=True)
class PairCandidate:
    """A layer and a batch norm of a state_dict that fit by their shapes: what ``--pair auto`` lists.

    ``pair`` is how ``--pair`` would name them, ``weight`` the shape of the layer's weight, ``kinds`` what it could be.
    """

    pair: str
    weight: tuple[int, ...]
    channels: int
    kinds: tuple[str, ...]


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
    also_merged: int = 0
    batch_norms: tuple[BatchNormRecord, ...]
    nodes: NodeCount
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class InspectReport(PlanReport):
    """What ``inspect`` found; nothing was written."""

    command: str = "inspect"


@dataclass(frozen=True, kw_only=True)
class ConvertReport(PlanReport):
    """What ``convert`` did. ``output`` is None when nothing was written (``--dry-run``, ``--check``, a failure).

    ``unmet`` says what was asked for and is not so (``--require-fold``, ``--check``); None where all of it is.
    """

    command: str = "convert"
    output: FileRecord | None = None
    unmet: str | None = None
    verification: VerifyReport | None = None
    timing: BenchReport | None = None
