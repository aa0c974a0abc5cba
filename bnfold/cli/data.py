"""``bnfold data``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bnfold.cli.options import debug_option, format_option
from bnfold.cli.streams import put_error, put_result

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from bnfold.render.page import Block

_WHERE_EXAMPLES = """\b
Examples:
  bnfold data where
  BNFOLD_MNIST=/data/mnist bnfold data where
  bnfold data where --format json
"""
_FETCH_EXAMPLES = """\b
Examples:
  bnfold data fetch mnist
  bnfold data fetch mnist --dir /data/mnist
  bnfold data fetch mnist --quiet --format json
"""


@click.group("data")
def command() -> None:
    """The labelled data sets that bnfold can verify with."""


@command.command("where", epilog=_WHERE_EXAMPLES)
@format_option("text", "json", "markdown")
@debug_option
def where(*, form: str) -> int:
    """Say where MNIST is looked for, in this order, and what is there."""
    from bnfold.data import places
    from bnfold.render.places import place_blocks, place_data

    found = places()
    put_result(_shown(place_blocks(found), list(map(place_data, found)), form))
    return 0


@command.command("fetch", epilog=_FETCH_EXAMPLES)
@click.argument("name", type=click.Choice(["mnist"]), metavar="mnist")
@click.option("--dir", "directory", type=click.Path(path_type=Path), metavar="DIR", help="Where to. [default: a cache]")
@format_option("text", "json", "markdown")
@click.option("--quiet", is_flag=True, help="No progress and no warnings.")
@debug_option
def fetch(*, name: str, directory: Path | None, form: str, quiet: bool) -> int:
    """Download MNIST (12 MB) and check its SHA-256.

    What is there already is checked and not downloaded again. No other command of bnfold's uses the network.
    """
    from bnfold.data import places
    from bnfold.data.fetch import fetch_mnist
    from bnfold.render.places import fetched_blocks, fetched_data
    from bnfold.render.progress import progress_shown

    def waiting() -> None:
        if not quiet:
            put_error(f"another process is fetching {name}: waiting for it\n")

    with progress_shown(quiet=quiet) as progress:
        files = fetch_mnist(directory, progress=progress, waiting=waiting)
    if not quiet:
        put_error("".join(f"warning: {failure}\n" for file in files for failure in file.failures))
    put_result(_shown(fetched_blocks(files, places()), list(map(fetched_data, files)), form))
    return 0


def _shown(blocks: Sequence[Block], data: Sequence[Mapping[str, object]], form: str) -> str:
    from bnfold.render.markdown import blocks_to_markdown
    from bnfold.render.page import laid_out, page_of

    if form == "json":
        return json.dumps(data, indent=2) + "\n"
    if form == "markdown":
        return blocks_to_markdown(blocks)
    return laid_out(blocks, page_of(sys.stdout))
