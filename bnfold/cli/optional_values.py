"""Options whose value may be left out, before arguments that must not be taken for it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Final

import click


@dataclass(frozen=True)
class OptionalValue:
    """What an option means where it stands alone, which words can only be its value, and what to tell of these."""

    alone: str
    is_value: Callable[[str], bool]
    values: str


def _is_data(word: str) -> bool:
    return word in {"mnist", "random"} or word.endswith(".npz") or Path(word).is_dir()


OPTIONAL_VALUES: Final[Mapping[str, OptionalValue]] = {
    "--verify": OptionalValue("random", _is_data, "mnist, random, FILE.npz or DIR"),
    "--require-fold": OptionalValue("any", {"any", "all"}.__contains__, "any or all"),
}


class CommandWithOptionalValues(click.Command):
    """A command with ``OPTIONAL_VALUES``, which must not swallow the MODEL that follows."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Write an option that stands alone as ``--option=VALUE`` unless what follows can only be its value."""
        end = args.index("--") if "--" in args else len(args)
        whole = [_made_whole(word, args[place + 1 : place + 2], ctx) for place, word in enumerate(args[:end])]
        return super().parse_args(ctx, whole + args[end:])


def _made_whole(word: str, following: Sequence[str], context: click.Context) -> str:
    """``word``, with the value that it has alone where it has one; UsageError where that is not what was meant."""
    option = OPTIONAL_VALUES.get(word)
    if option is None or any(map(option.is_value, following)):
        return word
    for other in filter(_names_no_file, following):
        values = f"neither its value ({option.values}) nor a file"
        raise click.UsageError(f"'{other}' behind {word} is {values}", context)
    return f"{word}={option.alone}"


def _names_no_file(word: str) -> bool:
    """Whether a word is no option, no file, and none that somebody has forgotten to make: it looks like a value."""
    looks_like_a_file = bool(PurePath(word).suffix) or os.sep in word
    return not (word.startswith("-") or looks_like_a_file or os.path.lexists(word))
