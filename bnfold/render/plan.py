"""What ``inspect`` and ``convert`` found: one line a batch norm, then what to do about those that stay."""

from __future__ import annotations

from pathlib import PurePath
from typing import TYPE_CHECKING

from bnfold.files.names import printable
from bnfold.render.bench import case_blocks
from bnfold.render.numbers import counted, size
from bnfold.render.page import Block, Cell, Column, Page, Styled, Table
from bnfold.render.verify import judgement_blocks

if TYPE_CHECKING:
    from bnfold.records import BatchNormRecord, ConvertReport, FileRecord, PlanReport

_COLUMNS = (Column("batch norm", wraps=True), Column("verdict"), Column("into what, or why not", wraps=True))
_DETAILS = (Column("form", drop=3), Column("rule", drop=2), Column("scale", drop=1))


def plan_blocks(report: PlanReport, page: Page) -> list[Block]:
    """The verdicts, a remedy for each reason, and the count as the last line."""
    blocks = [_heading(report), *_hash(report.source, page)]
    if report.batch_norms:
        columns = _COLUMNS + _DETAILS if page.details else _COLUMNS
        blocks += ["", Table(columns, [_row(item)[: len(columns)] for item in report.batch_norms]), ""]
    remedies = dict.fromkeys(
        f"{item.reason.code} {item.reason.slug}: {printable(item.reason.remedy)}"
        for item in report.batch_norms
        if item.reason is not None
    )
    blocks += [*remedies, ""] if remedies else []
    return [*blocks, Styled(summary(report), "bold")]


def conversion_blocks(report: ConvertReport, page: Page) -> list[Block]:
    """The plan, what verifying and timing gave where they were asked for, and what was written as the last line."""
    blocks = plan_blocks(report, page)
    if report.verification is not None:
        blocks += ["", *judgement_blocks(report.verification, page)]
    if report.timing is not None:
        blocks += ["", *case_blocks(report.timing, page)]
    if report.output is None:
        return [*blocks, unwritten(report)]
    written = f"wrote {printable(report.output.path)}{_beside(report.output)} ({_total_size(report.output)})"
    return [*blocks, written, *_hash(report.output, page)]


def summary(report: PlanReport) -> str:
    """The count in one line: ``found 3 batch norms: 2 folded, 1 kept``."""
    line = f"found {counted(report.found, 'batch norm')}"
    if report.found:
        line += f": {report.folded} folded, {report.kept} kept"
    if report.also_folded:
        line += f"; also folded {counted(report.also_folded, 'run')} of constants"
    if report.also_merged:
        line += f"; merged {counted(report.also_merged, 'layer')} into those beside them"
    return line


def unwritten(report: ConvertReport) -> str:
    """That there is no output and, where something that was asked for is not so, what."""
    return "nothing was written" + ("" if report.unmet is None else f": {printable(report.unmet)}")


def _heading(report: PlanReport) -> str:
    source, nodes = report.source, report.nodes
    operators = counted(nodes.before, "operator")
    if nodes.after != nodes.before:
        operators += f", {nodes.after:,} after folding"
    return f"{printable(source.path)}: {source.format}, {_total_size(source)}, {operators}"


def _hash(file: FileRecord, page: Page) -> list[Block]:
    return [f"sha256 {file.sha256}"] if page.details else []


def _beside(file: FileRecord) -> str:
    """The external data: `` with NAME.data``, or how many files."""
    if len(file.external) > 1:
        return f" with {counted(len(file.external), 'file')} beside it"
    return "".join(f" with {printable(PurePath(item.path).name)}" for item in file.external)


def _total_size(file: FileRecord) -> str:
    return size(file.bytes + sum(item.bytes for item in file.external))


def _row(item: BatchNormRecord) -> tuple[Cell, ...]:
    verdict = Styled(item.verdict, "green" if item.verdict == "folded" else "yellow")
    scale = "" if item.scale_range is None else "{:.3g} to {:.3g}".format(*item.scale_range)
    return printable(item.name), verdict, place(item), item.form, item.rule or "", scale


def place(item: BatchNormRecord) -> str:
    """Into what a batch norm went, or why it stays and where, in one line."""
    parts = [f"into {', '.join(map(printable, item.into))}"] if item.into else []
    if item.reason is not None:
        reason = f"{item.reason.code} {item.reason.slug}"
        reason += f" at {printable(item.reason.at)}" if item.reason.at not in {"", item.name} else ""
        parts.append(f"{reason}: {printable(item.reason.detail)}" if item.reason.detail else reason)
    return "; ".join(parts)
