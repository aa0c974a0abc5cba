"""``bnfold inspect``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Unpack

import click

from bnfold.cli.blas import one_blas_thread
from bnfold.cli.idle_settings import meant
from bnfold.cli.options import PlanOptions, plan_options, report_options
from bnfold.cli.parameters import file_path
from bnfold.cli.result import Presentation

if TYPE_CHECKING:
    from bnfold.records import InspectReport

_EXAMPLES = """\b
Examples:
  bnfold inspect model.onnx
  bnfold inspect net.safetensors --model mypkg.nets:build --input 1x3x224x224
  bnfold inspect model.onnx --format json | jq '.batch_norms[].verdict'
"""


@click.command("inspect", epilog=_EXAMPLES)
@click.argument("model", type=file_path)
@plan_options
@report_options
def command(*, model: Path, presentation: Presentation, **options: Unpack[PlanOptions]) -> int:
    """Show every batch norm of MODEL: where it would be folded, or why not.

    Nothing is written. `bnfold explain CODE` says more about a reason.
    """
    with one_blas_thread():
        from bnfold import api

    presentation.check_files([model])

    def inspect() -> InspectReport:
        with presentation.working():
            return api.inspect(model, **meant(options, [model]))

    presentation.report_of(inspect)
    return 0
