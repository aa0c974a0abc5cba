"""``bnfold verify``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

import click

from bnfold.cli.idle_settings import meant
from bnfold.cli.options import DataOptions, ModelOptions, data_options, model_options, report_options
from bnfold.cli.parameters import FiniteRange, file_path, tolerance
from bnfold.cli.result import Presentation
from bnfold.errors import CheckFailedError

if TYPE_CHECKING:
    from bnfold.records import VerifyReport

_EXAMPLES = """\b
Examples:
  bnfold verify model.onnx model.folded.onnx
  bnfold verify model.onnx model.folded.onnx --data mnist --max-flips 2
  bnfold verify net.pt net.folded.pt --model my.nets:build --rtol logits:1e-4
"""


class VerifyOptions(ModelOptions, DataOptions):
    """The judge's options, as the API names them."""

    data: str
    seed: int
    atol: Mapping[str, float] | None
    rtol: Mapping[str, float] | None
    max_flips: int
    max_accuracy_drop: float | None
    layers: bool


def _by_output(
    _context: click.Context, _option: click.Parameter, value: tuple[tuple[str, float], ...]
) -> dict[str, float] | None:
    return dict(value) or None


@click.command("verify", epilog=_EXAMPLES)
@click.argument("original", type=file_path)
@click.argument("folded", type=file_path)
@click.option("--data", default="random", metavar="DATA", help="mnist, random, FILE.npz or DIR. [default: random]")
@data_options
@click.option("--seed", type=click.IntRange(min=0), default=0, metavar="N", help="Of random data. [default: 0]")
@click.option(
    "--atol",
    type=tolerance,
    multiple=True,
    metavar="[OUTPUT:]X",
    callback=_by_output,
    help="Allowed absolute error; repeatable.",
)
@click.option(
    "--rtol",
    type=tolerance,
    multiple=True,
    metavar="[OUTPUT:]X",
    callback=_by_output,
    help="Allowed error relative to max|output|; repeatable.",
)
@click.option(
    "--max-flips", type=click.IntRange(min=0), default=0, metavar="N", help="Predictions that may flip. [default: 0]"
)
@click.option("--max-accuracy-drop", type=FiniteRange(0, 1), metavar="X", help="Allowed loss; 0.001 is 0.1 %.")
@click.option("--layers", is_flag=True, help="Compare inner values too: where does a difference begin?")
@model_options
@report_options
def command(*, original: Path, folded: Path, presentation: Presentation, **options: Unpack[VerifyOptions]) -> int:
    """Are ORIGINAL and FOLDED the same network? Exit 0 for PASS, 1 for FAIL."""
    from bnfold import api

    presentation.check_files([original, folded])

    def verify() -> VerifyReport:
        with presentation.working() as progress:
            return api.verify(original, folded, **meant(options, [original, folded], run=True), progress=progress)

    return 0 if presentation.report_of(verify).passed else CheckFailedError.exit_code
