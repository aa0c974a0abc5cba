"""Options of pyproject.toml that mean nothing to the models at hand: a project sets them for all that it has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource


def meant(
    options: Mapping[str, Any], models: Sequence[Path], *, among: Sequence[Path] = (), run: bool = False
) -> dict[str, Any]:
    """The options for the API, without those that would change nothing for ``models`` and are meant for others.

    These are what pyproject.toml says, and what means something to others ``among`` which they are given. The rest
    stands on the command line, for all of them, and is refused by the API.
    """
    from bnfold.idle import formats_at, idle_options, idle_with_data

    source_of = click.get_current_context().get_parameter_source
    idle = [*idle_options(formats_at(models), options, run=run), *idle_with_data(options.get("data"), options)]
    in_vain = {item.keyword for item in idle_options(formats_at(among or models), options, run=run)}
    dropped = {
        item.keyword
        for item in idle
        if source_of(item.keyword) is ParameterSource.DEFAULT_MAP or (among and item.keyword not in in_vain)
    }
    return {keyword: value for keyword, value in options.items() if keyword not in dropped}
