"""Which model is faster? Timings, and the verdict."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from bnfold.records.common import SCHEMA, Environment, FileRecord, Report

Speed = Literal["faster", "slower", "no difference"]


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
