"""What ``bench`` measured: a table for each runtime and batch size."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bnfold.files.names import printable
from bnfold.render.files import environment_line, file_table
from bnfold.render.numbers import milliseconds
from bnfold.render.page import Block, Cell, Column, Page, Styled, Table

if TYPE_CHECKING:
    from bnfold.records import BenchCase, BenchReport, Timing

_COLUMNS = (
    Column("model", wraps=True),
    Column("median ms", "right"),
    Column("p90 ms", "right", drop=2),
    Column("MAD ms", "right", drop=4),
    Column("ratio", "right"),
    Column("95 % interval", "right", drop=1),
    Column("runs", "right", drop=3),
    Column("verdict"),
)
_STYLES = {"faster": "green", "slower": "red", "no difference": ""}


def benchmark_blocks(report: BenchReport, page: Page) -> list[Block]:
    """The whole report; with ``--fail-if-slower`` its last line is PASS or FAIL."""
    names = (
        ["folded"] if len(report.outputs) == 1 else [f"folded {number}" for number in range(1, 1 + len(report.outputs))]
    )
    files = {"original": report.source, **dict(zip(names, report.outputs, strict=True))}
    return [file_table(files, page), "", *case_blocks(report, page)]


def case_blocks(report: BenchReport, page: Page) -> list[Block]:
    """The report without its heading: what ``convert --bench`` shows."""
    blocks: list[Block] = [f"measured on {environment_line(report.environment)}", ""]
    for case in report.cases:
        blocks += _one_case(case)
    if page.details:
        blocks += ["ratio: time / the original's, pair by pair, median; MAD: median absolute deviation", ""]
    if report.fail_if_slower_percent is None:
        return blocks[:-1]
    limit = limit_line(report.fail_if_slower_percent)
    verdict = Styled(f"PASS: {limit}", "bold green") if report.passed else Styled(f"FAIL: {limit}", "bold red")
    return [*blocks, verdict]


def limit_line(percent: float) -> str:
    """What ``--fail-if-slower`` asks for."""
    return f"{percent:g} % slower is allowed"


def _one_case(case: BenchCase) -> list[Block]:
    heading = Styled(f"{printable(case.runtime)}, batch {case.batch:,}", "bold")
    note: list[Block] = [f"note: {printable(case.note)}"] if case.note else []
    return [heading, Table(_COLUMNS, [_row(timing) for timing in case.timings]), *note, ""]


def _row(timing: Timing) -> tuple[Cell, ...]:
    ratio = "" if timing.ratio is None else f"{timing.ratio:.3f}"
    interval = "" if timing.ratio_low is None else f"{timing.ratio_low:.3f} to {timing.ratio_high:.3f}"
    verdict = timing.verdict or ""
    return (
        printable(timing.model),
        milliseconds(timing.median_ms),
        milliseconds(timing.p90_ms),
        milliseconds(timing.mad_ms),
        ratio,
        interval,
        f"{len(timing.samples_ms):,}",
        Styled(verdict, _STYLES.get(verdict, "")),
    )
