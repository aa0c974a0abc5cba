"""``bnfold data``."""

from __future__ import annotations

import json
import sys

import click

from bnfold.cli.options import debug_option, format_option
from bnfold.cli.streams import put_result

_EXAMPLES = """\b
Examples:
  bnfold data where
  BNFOLD_MNIST=/data/mnist bnfold data where
  bnfold data where --format json
"""


@click.group("data")
def command() -> None:
    """The labelled data sets that bnfold can verify with."""


@command.command("where", epilog=_EXAMPLES)
@format_option
@debug_option
def where(*, form: str) -> int:
    """Say where MNIST is looked for, in this order, and what is there."""
    from bnfold.data import places
    from bnfold.render.page import laid_out, page_of
    from bnfold.render.places import place_blocks, place_data

    found = places()
    if form == "json":
        put_result(json.dumps([place_data(place) for place in found], indent=2) + "\n")
    else:
        put_result(laid_out(place_blocks(found), page_of(sys.stdout)))
    return 0
