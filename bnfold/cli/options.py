"""The options that several commands share, each declared once."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypedDict, TypeVar

import click

from bnfold.cli.failures import Debugging
from bnfold.cli.parameters import FiniteRange, factory, finite, input_spec, report_file
from bnfold.cli.result import FORMS, Presentation
from bnfold.records import InputSpec

_Function = TypeVar("_Function", bound=Callable[..., Any])


class ModelOptions(TypedDict):
    """What the API wants to know to load and run a model."""

    factory: str | None
    inputs: tuple[InputSpec, ...] | None
    trust_code: bool
    key: str | None


class PlanOptions(ModelOptions):
    """What it wants to know besides to decide about each batch norm."""

    freeze: bool
    only: tuple[str, ...]
    skip: tuple[str, ...]
    merge_parallel: bool


class DataOptions(TypedDict):
    """How much of the data is used, and how raw pixels are scaled."""

    samples: int | None
    batch: int | None
    mean: float | None
    std: float | None
    scale: float | None


def model_options(function: _Function) -> _Function:
    """``--model``, ``--input``, ``--key``, ``--trust-code``."""
    return _with_options(
        function,
        click.option(
            "--model",
            "factory",
            type=factory,
            metavar="FACTORY",
            help="Architecture: pkg.module:factory (runs its code).",
        ),
        click.option(
            "--input",
            "inputs",
            type=input_spec,
            multiple=True,
            metavar="SPEC",
            callback=lambda _context, _option, value: value or None,
            help="Example: [NAME=]1x3x224x224[:f32]; repeatable.",
        ),
        click.option("--key", metavar="NAME", help="Where a training checkpoint holds the state_dict."),
        click.option("--trust-code", is_flag=True, help="Load formats that run code (pickled modules)."),
    )


def data_options(function: _Function) -> _Function:
    """``--samples``, ``--batch``, ``--mean``, ``--std``, ``--scale``."""
    return _with_options(
        function,
        click.option("--samples", type=click.IntRange(min=1), metavar="N", help="Use only so many samples."),
        click.option("--batch", type=click.IntRange(min=1), metavar="N", help="Samples per run."),
        click.option("--mean", type=finite, metavar="X", help="Subtracted from the scaled pixels."),
        click.option("--std", type=FiniteRange(min=0, min_open=True), metavar="X", help="Divides what is left."),
        click.option(
            "--scale",
            type=click.Choice(["1", "255"]),
            callback=lambda _context, _option, value: value and float(value),
            help="Divides the raw pixels. [default: the model's, or 255]",
        ),
    )


def plan_options(function: _Function) -> _Function:
    """The model options, ``--only``, ``--skip``, ``--freeze``, ``--merge-parallel``."""
    return _with_options(
        model_options(function),
        click.option("--only", multiple=True, metavar="GLOB", help="Fold only these batch norms; repeatable."),
        click.option("--skip", multiple=True, metavar="GLOB", help="Keep these batch norms; repeatable."),
        click.option("--freeze", is_flag=True, help="Take overridable initializers for constants."),
        click.option("--merge-parallel", is_flag=True, help="Join parallel layers even without a batch norm."),
    )


def report_options(function: Callable[..., int]) -> Callable[..., int]:
    """``--format``, ``--report``, ``--hash-data``, ``--quiet``, ``--verbose``, ``--debug``.

    The command gets them, but for the last, as its ``presentation``.
    """

    @functools.wraps(function)
    def presenting(
        *, form: str, files: tuple[str, ...], hash_data: bool, quiet: bool, verbose: bool, **options: object
    ) -> int:
        return function(presentation=Presentation(form, files, quiet, verbose, hash_data), **options)

    return _with_options(
        presenting,
        format_option(*FORMS),
        click.option(
            "--report",
            "files",
            type=report_file,
            multiple=True,
            metavar="FILE",
            help="Besides: .json .md .txt .xml .html; repeatable.",
        ),
        click.option("--hash-data", is_flag=True, help="Take the SHA-256 of external data too."),
        click.option("--quiet", is_flag=True, help="No progress and no warnings."),
        click.option("--verbose", is_flag=True, help="More columns, hashes, environment."),
        debug_option,
    )


def format_option(*forms: str) -> Callable[[_Function], _Function]:
    """``--format``, one of ``forms``, of which the first is the default."""
    return click.option(
        "--format",
        "form",
        type=click.Choice(forms),
        default=forms[0],
        metavar="FORM",
        help=f"{forms[0]} (default), {', '.join(forms[1:-1])} or {forms[-1]}.",
    )


def debug_option(function: _Function) -> _Function:
    """``--debug``; found again in the run's Debugging, because an error outlives the command that raised it."""
    return click.option(
        "--debug",
        is_flag=True,
        expose_value=False,
        is_eager=True,
        callback=_remember_debug,
        help="Show tracebacks of errors.",
    )(function)


def _remember_debug(context: click.Context, _option: click.Parameter, value: bool) -> None:
    if value:  # a command that the demo runs without the option does not take back what the demo was given
        context.ensure_object(Debugging).wanted = True


def _with_options(function: _Function, *options: Callable[[Any], Any]) -> _Function:
    """Decorate with the options, so that ``--help`` lists them in the order given."""
    for option in reversed(options):
        function = option(function)
    return function
