"""A report as a list of checks, each passed, skipped or failed: what programs that watch a pipeline understand."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from bnfold.files.names import printable
from bnfold.records import BenchReport, CalibrateReport, ConvertReport, PlanReport, Report, VerifyReport
from bnfold.render.bench import limit_line
from bnfold.render.calibrate import statistics_line
from bnfold.render.numbers import error
from bnfold.render.plan import place
from bnfold.render.verify import flips_line

if TYPE_CHECKING:
    from bnfold.records import BatchNormRecord, BenchCase, CalibratedRecord, OutputDifference, Timing


@dataclass(frozen=True)
class Check:
    """One thing that was looked at, and what there is to say of it in one line."""

    name: str
    outcome: Literal["passed", "skipped", "failed"]
    text: str


def checks_of(report: Report) -> list[Check]:
    """Every batch norm (one that stays is skipped: that is no failure), every output, the predictions, every timing."""
    if isinstance(report, ConvertReport):
        return [*_conversion(report)]
    if isinstance(report, PlanReport):
        return [*map(_batch_norm, report.batch_norms)]
    if isinstance(report, VerifyReport):
        return [*_verification(report)]
    if isinstance(report, BenchReport):
        return [*_timings(report)]
    if isinstance(report, CalibrateReport):
        return [*map(_calibrated, report.batch_norms)]
    raise TypeError(f"no checks in {type(report).__name__}")


def _conversion(report: ConvertReport) -> Iterator[Check]:
    yield from map(_batch_norm, report.batch_norms)
    if report.unmet is not None:
        yield Check("what was asked for", "failed", printable(report.unmet))
    for part in (report.verification, report.timing):
        yield from () if part is None else checks_of(part)


def _batch_norm(item: BatchNormRecord) -> Check:
    if item.reason is None:
        return Check(printable(item.name), "passed", place(item))
    return Check(printable(item.name), "skipped", f"{place(item)}. {printable(item.reason.remedy)}")


def _calibrated(item: CalibratedRecord) -> Check:
    stays = item.action == "kept" and item.why
    return Check(printable(item.name), "skipped" if stays else "passed", statistics_line(item))


def _verification(report: VerifyReport) -> Iterator[Check]:
    yield from map(_output, report.as_written.outputs)
    for difference in report.as_written.differences:
        yield Check("inputs and outputs", "failed", printable(difference))
    if report.accuracy is not None:
        yield Check("predictions", _outcome(passed=report.accuracy.passed), flips_line(report.accuracy))


def _output(item: OutputDifference) -> Check:
    text = f"relative error {error(item.relative_error)}, tolerance {error(item.tolerance)}"
    if not (item.same_nan and item.same_inf):
        text += ", NaN or Inf in other places"
    return Check(f"output {printable(item.name)}", _outcome(passed=item.passed), text)


def _timings(report: BenchReport) -> Iterator[Check]:
    for case in report.cases:
        yield from (_timing(case, timing) for timing in case.timings)
    if report.fail_if_slower_percent is not None:
        yield Check("time", _outcome(passed=report.passed), limit_line(report.fail_if_slower_percent))


def _timing(case: BenchCase, timing: Timing) -> Check:
    text = f"median {timing.median_ms:.4g} ms"
    if timing.ratio is not None:
        text += f", {timing.ratio:.3f} of the original's: {timing.verdict}"
    return Check(f"{printable(case.runtime)}, batch {case.batch:,}: {printable(timing.model)}", "passed", text)


def _outcome(*, passed: bool) -> Literal["passed", "failed"]:
    return "passed" if passed else "failed"
