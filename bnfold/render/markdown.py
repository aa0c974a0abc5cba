"""Reports as GitHub Markdown, for comments on pull requests.

A name from a model stands in code, where it can neither format anything nor close a table's cell. Sentences are
escaped; an ``@`` or a ``#`` in them stands in code too, for GitHub would call a person or link an issue.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final

from bnfold.files.names import printable
from bnfold.records import BenchReport, CalibrateReport, ConvertReport, PlanReport, Report, VerifyReport
from bnfold.render.bench import benchmark_blocks, case_blocks
from bnfold.render.calibrate import calibration_blocks
from bnfold.render.calibrate import summary as calibrated
from bnfold.render.numbers import counted, size
from bnfold.render.page import Block, Cell, Column, Page, Styled, Table
from bnfold.render.plan import summary, unwritten
from bnfold.render.text import warnings_of
from bnfold.render.verify import judgement_blocks, verification_blocks

if TYPE_CHECKING:
    from bnfold.records import BatchNormRecord, FileRecord

_SPECIAL: Final = re.compile(r"[\\`*_\[\]<>&|~$]")
_CALLING: Final = re.compile(r"[@#]+")
_ENTITIES: Final = {ord(character): f"&#{ord(character)};" for character in "\\`*_[]<>&|~$"}
PARAGRAPH: Final = "\n\n"


def to_markdown(report: Report, *, details: bool = False) -> str:
    """The report with its warnings, the verdict in its heading."""
    page = Page(details=details)
    parts = [*_parts(report, page), *(f"> **warning:** {plain(warning)}" for warning in warnings_of(report))]
    return PARAGRAPH.join(parts) + "\n"


def blocks_to_markdown(blocks: Sequence[Block]) -> str:
    """What is laid out as text elsewhere, as Markdown."""
    return PARAGRAPH.join(_of_blocks(blocks)) + "\n"


def plain(text: str) -> str:
    """Text that reads as it is written, in one line."""
    return _CALLING.sub(r"`\g<0>`", _SPECIAL.sub(r"\\\g<0>", printable(text)))


def code(text: str) -> str:
    """Text in code: between backticks, or, where it holds what would end the code or the cell, as an HTML element."""
    shown = printable(text)
    if "|" in shown or "`" in shown or shown != shown.strip() or not shown:
        return f"<code>{shown.translate(_ENTITIES)}</code>"
    return f"`{shown}`"


def markdown_table(columns: Sequence[Column], rows: Iterable[Sequence[str]]) -> str:
    """A GitHub table of cells that are Markdown already."""
    rule = ["---:" if column.justify == "right" else "---" for column in columns]
    lines = [[column.title for column in columns], rule, *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _parts(report: Report, page: Page) -> list[str]:
    """The paragraphs of a report."""
    if isinstance(report, PlanReport):
        return _plan(report, page)
    if isinstance(report, VerifyReport):
        return [f"### bnfold verify: {_verdict(report.passed)}", *_of_blocks(verification_blocks(report, page)[:-1])]
    if isinstance(report, BenchReport):
        return [_bench_heading(report), *_of_blocks(benchmark_blocks(report, page))]
    if isinstance(report, CalibrateReport):
        return [f"### bnfold calibrate: {calibrated(report)}", *_of_blocks(calibration_blocks(report, page))]
    raise TypeError(f"no Markdown for {type(report).__name__}")


def _plan(report: PlanReport, page: Page) -> list[str]:
    """What ``inspect`` and ``convert`` found: those that stay in sight, those that fold behind a click."""
    kept = [item for item in report.batch_norms if item.reason is not None]
    folded = [item for item in report.batch_norms if item.verdict == "folded"]
    parts = [f"### bnfold {report.command}: {summary(report)}", _files(report, page)]
    parts += [_kept_table(kept)] if kept else []
    parts += [_folded_table(folded)] if folded else []
    if isinstance(report, ConvertReport):
        parts += _checked(report, page)
    return parts


def _files(report: PlanReport, page: Page) -> str:
    nodes = report.nodes
    lines = [f"{_file(report.source, page)}, {counted(nodes.before, 'operator')}"]
    lines[0] += f", {nodes.after:,} after folding" if nodes.after != nodes.before else ""
    if isinstance(report, ConvertReport):
        lines.append(f"wrote {_file(report.output, page)}" if report.output else plain(unwritten(report)))
    return "\\\n".join(lines)


def _file(file: FileRecord, page: Page) -> str:
    total = size(file.bytes + sum(item.bytes for item in file.external))
    return f"{code(file.path)} ({file.format}, {total}{f', sha256 {file.sha256}' if page.details else ''})"


def _kept_table(kept: Sequence[BatchNormRecord]) -> str:
    columns = (Column("kept batch norm"), Column("reason"), Column("where"), Column("what to do"))
    rows = [
        (
            code(item.name),
            f"{plain(item.reason.code)} {plain(item.reason.slug)}",
            ": ".join(code(part) for part in (item.reason.at, item.reason.detail) if part),
            plain(item.reason.remedy),
        )
        for item in kept
        if item.reason is not None
    ]
    return markdown_table(columns, rows)


def _folded_table(folded: Sequence[BatchNormRecord]) -> str:
    columns = (Column("folded batch norm"), Column("into"), Column("rule"), Column("scale"))
    table = markdown_table(columns, [_folded_row(item) for item in folded])
    return f"<details><summary>{len(folded):,} folded</summary>{PARAGRAPH}{table}{PARAGRAPH}</details>"


def _folded_row(item: BatchNormRecord) -> tuple[str, ...]:
    scale = "" if item.scale_range is None else "{:.3g} to {:.3g}".format(*item.scale_range)
    return code(item.name), ", ".join(map(code, item.into)), plain(item.rule or ""), scale


def _checked(report: ConvertReport, page: Page) -> list[str]:
    """What ``--verify`` and ``--bench`` added."""
    parts = []
    if report.verification is not None:
        judgement = judgement_blocks(report.verification, page)[:-1]
        parts += [f"#### verify: {_verdict(report.verification.passed)}", *_of_blocks(judgement)]
    if report.timing is not None:
        parts += ["#### bench", *_of_blocks(case_blocks(report.timing, page))]
    return parts


def _verdict(passed: bool) -> str:  # noqa: FBT001 - the one thing it says
    return "PASS" if passed else "FAIL"


def _bench_heading(report: BenchReport) -> str:
    limited = report.fail_if_slower_percent is not None
    return f"### bnfold bench: {_verdict(report.passed)}" if limited else "### bnfold bench"


def _of_blocks(blocks: Sequence[Block]) -> list[str]:
    """Each block as a paragraph; blank lines come between them anyway."""
    return [_of_block(block) for block in blocks if block]


def _of_block(block: Block) -> str:
    if isinstance(block, Table):
        return markdown_table(block.columns, [list(map(_cell, block.columns, row)) for row in block.rows])
    if isinstance(block, Styled):
        return f"**{plain(block.text.strip())}**"  # a blank inside would end the emphasis
    return plain(block)


def _cell(column: Column, cell: Cell) -> str:
    text = cell if isinstance(cell, str) else cell.text
    return code(text) if column.wraps else plain(text)  # the columns that a narrow page wraps are those with names
