"""A report as text, and the warnings in it."""

from __future__ import annotations

from bnfold.files.names import printable
from bnfold.records import BenchReport, CalibrateReport, ConvertReport, PlanReport, Report, VerifyReport
from bnfold.render.bench import benchmark_blocks
from bnfold.render.calibrate import calibration_blocks
from bnfold.render.page import Block, Page, laid_out
from bnfold.render.plan import conversion_blocks, plan_blocks
from bnfold.render.verify import verification_blocks


def to_text(report: Report, page: Page) -> str:
    """The report as people read it, without its warnings, which go another way than the result."""
    return laid_out(blocks_of(report, page), page)


def warnings_of(report: Report) -> list[str]:
    """Every warning once, each in one line, those about one batch norm under its name."""
    found: list[str] = []
    if isinstance(report, PlanReport | CalibrateReport):
        found += [f"{item.name}: {warning}" for item in report.batch_norms for warning in item.warnings]
    if isinstance(report, PlanReport | VerifyReport | BenchReport | CalibrateReport):
        found += report.warnings
    found = [printable(warning) for warning in found]
    if isinstance(report, ConvertReport):
        parts = (report.verification, report.timing)
        found += [warning for part in parts if part is not None for warning in warnings_of(part)]
    return list(dict.fromkeys(found))


def blocks_of(report: Report, page: Page) -> list[Block]:
    """The report's lines and tables, before anybody lays them out."""
    if isinstance(report, ConvertReport):
        return conversion_blocks(report, page)
    if isinstance(report, PlanReport):
        return plan_blocks(report, page)
    if isinstance(report, VerifyReport):
        return verification_blocks(report, page)
    if isinstance(report, BenchReport):
        return benchmark_blocks(report, page)
    if isinstance(report, CalibrateReport):
        return calibration_blocks(report, page)
    raise TypeError(f"no text for {type(report).__name__}")
