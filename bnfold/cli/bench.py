"""``bnfold bench``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Unpack

import click

from bnfold.arguments import MOST_THREADS
from bnfold.cli.idle_settings import meant
from bnfold.cli.options import ModelOptions, model_options, report_options
from bnfold.cli.parameters import FiniteRange, file_path, sizes
from bnfold.cli.result import Presentation
from bnfold.errors import CheckFailedError

if TYPE_CHECKING:
    from bnfold.records import BenchReport

_EXAMPLES = """\b
Examples:
  bnfold bench model.onnx model.folded.onnx
  bnfold bench model.onnx model.folded.onnx --batch 1,1000 --runtime ort-off
  bnfold bench a.onnx b.onnx --fail-if-slower 5 --report bench.json
"""


class BenchOptions(ModelOptions):
    """The stopwatch's options, as the API names them."""

    batch: tuple[int, ...]
    runtime: tuple[str, ...] | None
    threads: int | None
    min_seconds: float
    fail_if_slower: float | None


@click.command("bench", epilog=_EXAMPLES)
@click.argument("original", type=file_path)
@click.argument("folded", type=file_path)
@click.argument("more", nargs=-1, type=file_path)
@click.option("--batch", type=sizes, default="1,32", metavar="N,N,...", help="Batch sizes. [default: 1,32]")
@click.option(
    "--runtime",
    type=click.Choice(["ort", "ort-off", "torch"]),
    multiple=True,
    callback=lambda _context, _option, value: value or None,
    help="ort-off: no optimisations; repeatable. [default: all]",
)
@click.option("--threads", type=click.IntRange(1, MOST_THREADS), metavar="N", help="Threads of the runtime.")
@click.option(
    "--min-seconds",
    type=FiniteRange(min=0, min_open=True),
    default=1.0,
    metavar="X",
    help="Time at least this long per case. [default: 1]",
)
@click.option("--fail-if-slower", type=FiniteRange(min=0), metavar="PERCENT", help="Exit 1 if slower by more.")
@model_options
@report_options
def command(
    *,
    original: Path,
    folded: Path,
    more: tuple[Path, ...],
    presentation: Presentation,
    **options: Unpack[BenchOptions],
) -> int:
    """Which is faster, ORIGINAL or FOLDED (or MORE)? They run in turn, pair by pair."""
    from bnfold import api

    models = [original, folded, *more]
    presentation.check_files(models)

    def bench() -> BenchReport:
        with presentation.working() as progress:
            return api.bench(*models, **meant(options, models, run=True), progress=progress)

    return 0 if presentation.report_of(bench).passed else CheckFailedError.exit_code
