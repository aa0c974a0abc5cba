"""``bnfold calibrate``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Unpack

import click

from bnfold.cli.idle_settings import meant
from bnfold.cli.options import DataOptions, ModelOptions, data_options, model_options, report_options
from bnfold.cli.parameters import file_path
from bnfold.cli.result import Presentation

if TYPE_CHECKING:
    from bnfold.records import CalibrateReport

_EXAMPLES = """\b
Examples:
  bnfold calibrate model.onnx --data mnist -o calibrated.onnx
  bnfold calibrate model.onnx --data train.npz --samples 5000 -o out.onnx
  bnfold calibrate net.pt --model my.nets:build --data a.npz --refresh -o b.pt
"""


class CalibrateOptions(ModelOptions, DataOptions):
    """The options of calibration, as the API names them."""

    data: str
    refresh: bool
    force: bool


@click.command("calibrate", epilog=_EXAMPLES)
@click.argument("model", type=file_path)
@click.option(
    "--data", required=True, metavar="DATA", help="mnist (its training images), FILE.npz or DIR; like training data."
)
@click.option("-o", "--output", required=True, type=file_path, metavar="OUT", help="Where to.")
@click.option("--refresh", is_flag=True, help="Re-estimate statistics that exist, too.")
@click.option("--force", is_flag=True, help="Replace OUT if it exists.")
@data_options
@model_options
@report_options
def command(*, model: Path, output: Path, presentation: Presentation, **options: Unpack[CalibrateOptions]) -> int:
    """Give batch norms of MODEL the mean and variance of their inputs over the data.

    For those that have none, and take each batch's (BNF101, BNF102). OUT is in inference mode.
    """
    from bnfold import api

    presentation.check_files([model, output])

    def calibrate() -> CalibrateReport:
        with presentation.working() as progress:
            return api.calibrate(model, output=output, **meant(options, [model], run=True), progress=progress).report

    presentation.report_of(calibrate)
    return 0
