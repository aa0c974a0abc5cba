"""What ``calibrate`` estimated: one line a batch norm, old statistics beside new, and what was written."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from bnfold.files.names import printable
from bnfold.render.files import environment_line
from bnfold.render.numbers import counted, percent, size
from bnfold.render.page import Block, Column, Page, Styled, Table
from bnfold.render.verify import data_line

if TYPE_CHECKING:
    from bnfold.records import CalibratedRecord, CalibrateReport, CalibrationAccuracy

_COLUMNS = (
    Column("batch norm", wraps=True),
    Column("statistics"),
    Column("pass", "right", drop=4),
    Column("mean", drop=1),
    Column("variance", drop=2),
    Column("moved", "right"),
    Column("error", "right", drop=3),
)

_LEGEND = "mean, variance: smallest and largest channel; moved: a mean, in standard deviations; error: of a variance"


def calibration_blocks(report: CalibrateReport, page: Page) -> list[Block]:
    """The statistics, old and new, as the range over the channels; the last line says what was written."""
    blocks: list[Block] = [heading(report)]
    if page.details:
        blocks += [f"sha256 {report.source.sha256}"] if report.source else []
        blocks.append(environment_line(report.environment))
    if report.data is not None:
        blocks.append(data_line(report.data))
    if report.batch_norms:
        blocks += ["", Table(_COLUMNS, [_row(item) for item in report.batch_norms])]
    if report.data is not None:
        blocks += ["", _LEGEND]
    if report.accuracy is not None:
        blocks.append(accuracy_line(report.accuracy))
    blocks += ["", Styled(summary(report), "bold")]
    if report.output is not None:
        blocks.append(f"wrote {printable(report.output.path)} ({size(report.output.bytes)})")
        blocks += [f"sha256 {report.output.sha256}"] if page.details else []
    return blocks


def heading(report: CalibrateReport) -> str:
    """The model that was calibrated."""
    if report.source is None:
        return "a model in memory"
    source = report.source
    return (
        f"{printable(source.path)}: {source.format}, {size(source.bytes + sum(item.bytes for item in source.external))}"
    )


def summary(report: CalibrateReport) -> str:
    """How many batch norms have new statistics, or that there was nothing to do, in one line."""
    found = f"found {counted(report.found, 'batch norm')}"
    if report.calibrated:
        passes = "1 pass" if report.steps == 1 else f"{report.steps} passes"
        kept = report.found - report.calibrated
        return f"{found}: {report.calibrated} calibrated in {passes} over the data, {kept} kept"
    if not report.found:
        return f"{found}: nothing to do"
    if all(item.why for item in report.batch_norms):
        return f"{found}, and none whose statistics can be estimated: nothing to do"
    return f"{found}, and all have statistics: nothing to do (--refresh estimates them anew)"


def accuracy_line(accuracy: CalibrationAccuracy) -> str:
    """Before and after, on the data that was calibrated on."""
    before, after = ("not measured" if value is None else percent(value) for value in (accuracy.before, accuracy.after))
    return f"accuracy on {counted(accuracy.samples, 'sample')}: {before} before, {after} after"


def statistics_line(item: CalibratedRecord) -> str:
    """What happened to a batch norm, in words."""
    if item.action == "kept":
        return f"kept: {printable(item.why)}" if item.why else "kept: it has statistics"
    moved = "" if item.mean_moved is None else f"; a mean moved by up to {item.mean_moved:.2g} standard deviations"
    return f"{item.action} from {counted(item.values, 'value')} a channel{moved}"


def _row(item: CalibratedRecord) -> tuple[str, ...]:
    return (
        printable(item.name),
        f"kept: {printable(item.why)}" if item.why else item.action,
        "" if item.step is None else str(item.step),
        _change(item.old_mean, item.mean),
        _change(item.old_variance, item.variance),
        "" if item.mean_moved is None else f"{item.mean_moved:.2g}",
        _error(item.variance_error),
    )


def _error(value: float | None) -> str:
    """A relative standard error; of a single sample it is not known."""
    if value is None:
        return ""
    return f"{100 * value:.1f} %" if math.isfinite(value) else "unknown"


def _change(old: tuple[float, ...] | None, new: tuple[float, ...] | None) -> str:
    """``0 → -1.2..3``: the range over the channels, before and after."""
    return " → ".join(map(_range, (old, new))) if new is not None else _range(old)


def _range(values: tuple[float, ...] | None) -> str:
    if not values:
        return "none"
    low, high = f"{min(values):.3g}", f"{max(values):.3g}"
    return low if low == high else f"{low}..{high}"
