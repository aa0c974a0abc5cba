"""What ``bnfold convert MODEL --pair auto`` does instead of converting: it lists, and folds nothing."""

from __future__ import annotations

import dataclasses
import json
from typing import Final

import click
from click.core import ParameterSource

from bnfold.cli.result import Presentation
from bnfold.cli.streams import put_error, put_result
from bnfold.errors import UsageError
from bnfold.files.names import printable

USED: Final = frozenset({"models", "pairs", "key", "form", "quiet", "verbose", "debug"})
"""The parameters of the command that mean something here."""
FORMS: Final = ("text", "json")


def list_pairs(context: click.Context, presentation: Presentation) -> int:
    """List the layers and batch norms of one MODEL that fit by their shapes. UsageError where more is asked for."""
    from bnfold.formats.opening import pair_candidates

    models, pairs, key = (context.params[name] for name in ("models", "pairs", "key"))
    in_vain = [
        parameter.opts[-1]
        for parameter in context.command.params
        if parameter.name not in USED and _is_on_the_command_line(context, str(parameter.name))
    ]
    if len(models) > 1 or pairs != ("auto",) or in_vain:
        what = "--pair auto lists the candidates of one MODEL, and folds nothing"
        where = f"{', '.join(in_vain)} would change nothing" if in_vain else ""
        raise UsageError(what, where=where, remedy="give it alone")
    if presentation.form not in FORMS and _is_on_the_command_line(context, "form"):
        raise UsageError(f"--pair auto is listed as {' or '.join(FORMS)}", remedy="leave --format out")
    found = pair_candidates(models[0], key=key)
    if presentation.form == "json":
        put_result(json.dumps([dataclasses.asdict(item) for item in found], indent=2) + "\n")
        return 0
    for item in found:
        weight = "×".join(map(str, item.weight))
        put_result(f"--pair {printable(item.pair)}  ({weight}, {item.channels} channels, {' or '.join(item.kinds)})\n")
    if not presentation.quiet:
        put_error("names and shapes lie: check each pair against the code; nothing was folded\n")
    return 0


def _is_on_the_command_line(context: click.Context, name: str) -> bool:
    return context.get_parameter_source(name) is ParameterSource.COMMANDLINE
