"""``bnfold convert``."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Unpack

import click

from bnfold.cli.blas import one_blas_thread
from bnfold.cli.failures import Debugging, say
from bnfold.cli.idle_settings import meant
from bnfold.cli.optional_values import CommandWithOptionalValues
from bnfold.cli.options import PlanOptions, plan_options, report_options
from bnfold.cli.pair_list import list_pairs
from bnfold.cli.parameters import FiniteRange, file_path
from bnfold.cli.result import Presentation
from bnfold.errors import BnfoldError, UsageError

if TYPE_CHECKING:
    from bnfold.formats.kinds import Target
    from bnfold.records import ConvertReport, Report

_EXAMPLES = """\b
Examples:
  bnfold convert model.onnx -o folded.onnx --verify
  bnfold convert models/*.onnx --out-dir folded --require-fold=all
  bnfold convert net.safetensors --model mypkg.nets:build --input 1x3x32x32
"""


class ConvertOptions(PlanOptions):
    """The converter's options, as the API names them."""

    force: bool
    verify: str | None
    dry_run: bool
    check: bool
    bench: bool
    require_fold: Literal["any", "all"] | None
    pairs: tuple[str, ...]
    eps: float | None
    to: Target | None
    keep_architecture: bool


@click.command("convert", cls=CommandWithOptionalValues, epilog=_EXAMPLES)
@click.argument("models", metavar="MODEL...", nargs=-1, required=True, type=file_path)
@click.option("-o", "--output", type=file_path, metavar="OUT", help="Default: NAME.folded.EXT beside MODEL.")
@click.option("--out-dir", type=click.Path(path_type=Path), metavar="DIR", help="Write each NAME.folded.EXT into DIR.")
@click.option("--force", is_flag=True, help="Replace OUT if it exists.")
@click.option(
    "--verify",
    is_flag=False,
    flag_value="random",
    metavar="[DATA]",
    help="Verify before writing; alone: on random data.",
)
@click.option("--bench", is_flag=True, help="Then time both.")
@click.option("--dry-run", is_flag=True, help="Do everything but write.")
@click.option("--check", is_flag=True, help="Exit 1 unless OUT is what would be written.")
@click.option(
    "--require-fold",
    is_flag=False,
    flag_value="any",
    type=click.Choice(["any", "all"]),
    metavar="[any|all]",
    help="Exit 5 unless any or all were folded; alone: any.",
)
@click.option("--pair", "pairs", multiple=True, metavar="LAYER=BN", help="Fold a bare state_dict; auto lists.")
@click.option("--eps", type=FiniteRange(min=0), metavar="X", help="The pairs' ε. [default: 1e-05]")
@click.option(
    "--to",
    type=click.Choice(["onnx", "pt", "pt2", "safetensors"]),
    metavar="KIND",
    help="Write KIND: onnx, pt, pt2 or safetensors.",
)
@click.option("--keep-architecture", is_flag=True, help="Batch norms stay, scaling by 1: it loads anywhere.")
@plan_options
@report_options
@click.pass_context
def command(
    context: click.Context,
    *,
    models: tuple[Path, ...],
    output: Path | None,
    out_dir: Path | None,
    presentation: Presentation,
    **options: Unpack[ConvertOptions],
) -> int:
    """Fold the batch norms of each MODEL and write it.

    Several MODELs: all are converted, whatever happens to one, and the worst exit code is returned.
    """
    with one_blas_thread():
        from bnfold import api
    from bnfold.files.writing import folder_for_outputs

    if "auto" in options["pairs"]:
        return list_pairs(context, presentation)
    outputs = planned_outputs(models, output, out_dir, options["to"])
    presentation.check_files([*models, *outputs])
    runs = options["bench"] or options["verify"] is not None
    writes = not (options["dry_run"] or options["check"])

    def convert(model: Path, out: Path) -> ConvertReport:
        with presentation.working() as progress:
            return api.convert(model, out, **meant(options, [model], among=models, run=runs), progress=progress)

    with folder_for_outputs(out_dir) if out_dir is not None and writes else nullcontext():
        if len(models) > 1:
            jobs = zip(models, outputs, strict=True)
            return _all_of_them(jobs, convert, presentation, context.ensure_object(Debugging))
        presentation.report_of(lambda: convert(models[0], outputs[0]))
    return 0


def planned_outputs(
    models: Sequence[Path], output: Path | None, out_dir: Path | None, to: Target | None = None
) -> list[Path]:
    """Where each model goes. Raises UsageError where two would go to one file, or one onto another's input."""
    from bnfold.api import default_output

    if output is not None and out_dir is not None:
        raise UsageError("--output and --out-dir exclude each other", remedy="give one of them")
    if output is not None and len(models) > 1:
        raise UsageError(f"--output names one file, but there are {len(models)} MODELs", remedy="use --out-dir DIR")
    if output is not None and str(output) == "-":
        raise UsageError("--output - stands for stdout, to which no model is written", remedy="name a file")
    if output is not None:
        return [output]
    beside = [default_output(model, to) for model in models]
    outputs = beside if out_dir is None else [out_dir / path.name for path in beside]
    taken: dict[str, Path] = {}
    for model, out in zip(models, outputs, strict=True):
        earlier = taken.setdefault(os.path.realpath(out), model)
        if earlier is not model:
            raise UsageError(f"{earlier} and {model} would both be written to {out}", remedy="convert them apart")
    for model in models:
        writer = taken.get(os.path.realpath(model))
        if writer not in {None, model}:
            raise UsageError(
                f"{writer} would be written over {model}", remedy="convert them apart, or use --out-dir DIR"
            )
    return outputs


def _all_of_them(
    jobs: Iterable[tuple[Path, Path]],
    convert: Callable[[Path, Path], ConvertReport],
    presentation: Presentation,
    debugging: Debugging,
) -> int:
    """Convert one after the other; an error is told and does not keep the others from being converted."""
    reports: list[Report] = []
    worst = 0
    for model, out in jobs:
        failure: Exception | None = None
        try:
            report: Report | None = convert(model, out)
        except Exception as error:  # noqa: BLE001 - one model's failure, even a bug of ours, is not the others'
            failure = error
            report = error.report if isinstance(error, BnfoldError) else None
            if isinstance(error, BnfoldError) and report is None:
                presentation.show_failure(error)
        if report is not None:
            report = presentation.completed(report)
            presentation.show_one_of_many(report, first=not reports)
            reports.append(report)
        if failure is not None:
            worst = max(worst, say(failure, debugging, about=str(model)))
    presentation.finish_many(reports)
    return worst
