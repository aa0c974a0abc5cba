"""New statistics for batch norms: what they were, what they are, and how sure that is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from bnfold.records.common import SCHEMA, DataRecord, Environment, FileRecord, Report

Calibration = Literal["estimated", "refreshed", "kept"]


@dataclass(frozen=True)
class CalibratedRecord:
    """The statistics of one batch norm's input, one number a channel: before, and after.

    ``action`` is ``estimated`` where it had none, ``refreshed`` where it had some, ``kept`` where they stay, ``why``
    saying more. ``values`` numbers a channel were seen, in the pass ``step`` over the data (the first is 1). A
    channel's mean moved by at most ``mean_moved`` standard deviations √(σ²+ε). ``variance_error`` is the relative
    standard error of the least sure variance. ``constant_channels`` never moved: their variance is 0.
    """

    name: str
    action: Calibration
    why: str = ""
    step: int | None = None
    values: int = 0
    old_mean: tuple[float, ...] | None = None
    old_variance: tuple[float, ...] | None = None
    mean: tuple[float, ...] | None = None
    variance: tuple[float, ...] | None = None
    mean_moved: float | None = None
    variance_error: float | None = None
    constant_channels: tuple[int, ...] = ()
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class CalibrationAccuracy:
    """Top-1 accuracy on the data that was calibrated on; None where a model does not run on it."""

    samples: int
    before: float | None
    after: float | None


@dataclass(frozen=True, kw_only=True)
class CalibrateReport(Report):
    """What ``calibrate`` estimated. ``source`` is None for a model that was given as an object.

    ``data`` is None where there was nothing to do; ``output`` where nothing was written.
    """

    schema: str = SCHEMA
    command: str = "calibrate"
    version: str
    source: FileRecord | None
    output: FileRecord | None = None
    environment: Environment
    data: DataRecord | None
    steps: int
    found: int
    calibrated: int
    batch_norms: tuple[CalibratedRecord, ...]
    accuracy: CalibrationAccuracy | None = None
    warnings: tuple[str, ...] = ()
