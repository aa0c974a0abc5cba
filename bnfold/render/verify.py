"""What ``verify`` measured: the models and the data, then a table a comparison, accuracy, and the verdict."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from bnfold.files.names import printable
from bnfold.render.files import environment_line, file_table
from bnfold.render.numbers import counted, error, percent
from bnfold.render.page import Block, Cell, Column, Page, Styled, Table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bnfold.records import (
        AccuracyRecord,
        BatchDependence,
        Comparison,
        DataRecord,
        LayerError,
        OutputDifference,
        VerifyReport,
    )

_COLUMNS = (
    Column("output", wraps=True),
    Column("dtype", drop=7),
    Column("max error", "right"),
    Column("mean error", "right", drop=4),
    Column("relative", "right"),
    Column("one ulp", "right", drop=8),
    Column("tolerance", "right", drop=2),
    Column("passes at", "right", drop=3),
    Column("NaN", "right", drop=5),
    Column("Inf", "right", drop=6),
    Column("verdict"),
)
_SHOWN_FLIPS = 10
_SHOWN_LAYERS = 20


def verification_blocks(report: VerifyReport, page: Page) -> list[Block]:
    """The whole report; its last line is PASS or FAIL."""
    files = file_table({"original": report.source, "folded": report.output}, page)
    environment = [environment_line(report.environment)] if page.details else []
    return [files, *environment, "", *judgement_blocks(report, page)]


def judgement_blocks(report: VerifyReport, page: Page) -> list[Block]:
    """The report without its heading: what ``convert --verify`` shows."""
    blocks: list[Block] = [data_line(report.data), ""]
    blocks += _comparison_blocks("as written", report.as_written, page)
    if report.as_deployed is not None:
        blocks += _comparison_blocks("as deployed (this one only warns)", report.as_deployed, page)
    if report.layers:
        blocks += [*_layer_blocks(report.layers, page), ""]
    if report.accuracy is not None:
        blocks += [*_accuracy_blocks(report.accuracy), ""]
    if report.batch_dependence:
        blocks += [*_dependence_blocks(report.batch_dependence), ""]
    return [*blocks, Styled("PASS", "bold green") if report.passed else Styled("FAIL", "bold red")]


def data_line(data: DataRecord) -> str:
    """The inputs that were used, in one line."""
    line = f"inputs: {printable(data.name)}, {counted(data.samples, 'sample')} in batches of {data.batch:,}"
    if data.seed is not None:
        line += f", seed {data.seed}"
    scaled = _scaled(data)
    return line if scaled == "x" else f"{line}, scaled to {scaled}"


def _scaled(data: DataRecord) -> str:
    """The formula that was used, without the parts that change nothing."""
    formula = "x" if data.scale in {None, 1} else f"x / {data.scale:g}"
    if data.mean:
        formula = f"{formula} - {data.mean:g}"
    if data.std in {None, 1}:
        return formula
    return f"({formula}) / {data.std:g}"


def _comparison_blocks(title: str, comparison: Comparison, page: Page) -> list[Block]:
    heading = Styled(f"{title}: {printable(comparison.runtime)}", "bold")
    kept = [index for index, column in enumerate(_COLUMNS) if page.details or column.title != "one ulp"]
    rows = [_row(item) for item in comparison.outputs]
    table = Table(tuple(_COLUMNS[index] for index in kept), [tuple(row[index] for index in kept) for row in rows])
    differences = [Styled(printable(difference), "red") for difference in comparison.differences]
    return [heading, *([table] if rows else []), *differences, ""]


def _row(item: OutputDifference) -> tuple[Cell, ...]:
    needed = "never" if item.smallest_passing_tolerance is None else error(item.smallest_passing_tolerance)
    return (
        printable(item.name),
        item.dtype,
        error(item.max_abs_error),
        error(item.mean_abs_error),
        error(item.relative_error),
        error(item.rounding_error),
        error(item.tolerance),
        needed,
        f"{item.nan_count:,}",
        f"{item.inf_count:,}",
        Styled(_verdict(item), "green" if item.passed else "red"),
    )


def _verdict(item: OutputDifference) -> str:
    if item.passed:
        return "same"
    if item.same_nan and item.same_inf:
        return "differs"
    return "Inf elsewhere" if item.same_nan else "NaN elsewhere"


def _layer_blocks(layers: tuple[LayerError, ...], page: Page) -> list[Block]:
    """Inner values in the order of the graph: all of them, or those that differ most."""
    shown = layers
    heading = f"inside: {counted(len(layers), 'value')} that folding leaves as they are"
    if len(layers) > _SHOWN_LAYERS and not page.details:
        worst = sorted(range(len(layers)), key=lambda index: _size(layers[index]), reverse=True)[:_SHOWN_LAYERS]
        shown = tuple(layers[index] for index in sorted(worst))
        heading += f"; the {_SHOWN_LAYERS} that differ most (--verbose shows all)"
    columns = (Column("value", wraps=True), Column("max error", "right"), Column("relative", "right"))
    rows = [(printable(item.name), error(item.max_abs_error), error(item.relative_error)) for item in shown]
    return [Styled(heading, "bold"), Table(columns, rows)]


def _size(item: LayerError) -> float:
    """How much a value differs; NaN is the worst."""
    return math.inf if math.isnan(item.relative_error) else item.relative_error


def _accuracy_blocks(accuracy: AccuracyRecord) -> list[Block]:
    samples = accuracy.samples
    rows: list[tuple[Cell, ...]] = [
        ("original", percent(accuracy.original_accuracy), f"{accuracy.original_correct:,} of {samples:,}"),
        ("folded", percent(accuracy.folded_accuracy), f"{accuracy.folded_correct:,} of {samples:,}"),
    ]
    table = Table((Column("model"), Column("accuracy", "right"), Column("correct", "right")), rows)
    flips = flips_line(accuracy)
    blocks: list[Block] = [table, flips if accuracy.passed else Styled(flips, "red")]
    if accuracy.max_accuracy_drop is not None:
        drop = accuracy.original_accuracy - accuracy.folded_accuracy
        blocks.append(f"accuracy fell by {percent(drop)} ({percent(accuracy.max_accuracy_drop)} allowed)")
    if accuracy.flipped:
        blocks.append(f"flipped samples: {_first(accuracy.flipped)}")
    return blocks


def _dependence_blocks(found: Sequence[BatchDependence]) -> list[Block]:
    """What becomes of the same samples one by one and together."""
    columns = (
        Column("model"),
        Column("output", wraps=True),
        Column("samples", "right", drop=2),
        Column("difference", "right", drop=1),
        Column("agree", "right"),
        Column("classes alone", "right"),
        Column("classes together", "right"),
    )
    rows: list[tuple[Cell, ...]] = [
        (
            printable(item.model),
            printable(item.output),
            f"{item.samples:,}",
            error(item.relative_difference),
            *("" if count is None else f"{count:,}" for count in _counts(item)),
        )
        for item in found
    ]
    return [
        Styled("the same samples one by one and together: their outputs depend on the batch", "bold yellow"),
        Table(columns, rows),
    ]


def _counts(item: BatchDependence) -> tuple[int | None, ...]:
    return item.agreeing, item.distinct_alone, item.distinct_together


def flips_line(accuracy: AccuracyRecord) -> str:
    """How many predictions changed, and how many may."""
    allowed = "none is allowed" if accuracy.max_flips == 0 else f"{accuracy.max_flips:,} allowed"
    return f"{accuracy.flips:,} of {counted(accuracy.samples, 'prediction')} flipped ({allowed})"


def _first(flipped: tuple[int, ...]) -> str:
    shown = ", ".join(str(index) for index in flipped[:_SHOWN_FLIPS])
    more = len(flipped) - _SHOWN_FLIPS
    return shown if more <= 0 else f"{shown} and {more:,} more (all are in the JSON report)"
