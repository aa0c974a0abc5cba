"""What ``data where`` says about the places a data set is looked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from bnfold.files.names import printable
from bnfold.render.page import Block, Cell, Column, Styled, Table

if TYPE_CHECKING:
    from bnfold.data import Place


def place_blocks(places: Sequence[Place]) -> list[Block]:
    """Each place with what is there, then which one is used."""
    columns = (Column("place", cut=True), Column("MNIST"), Column("what is there"))
    table = Table(columns, [_row(place) for place in places])
    used = next((place for place in places if place.found), None)
    if used is None:
        return [table, "", "MNIST was not found. Set BNFOLD_MNIST to the directory that holds it."]
    return [table, "", f"MNIST is read from {printable(str(used.path))}"]


def place_data(place: Place) -> dict[str, str | bool]:
    """One place, ready for JSON."""
    return {"data": "mnist", "path": str(place.path), "found": place.found, "what": place.why}


def _row(place: Place) -> tuple[Cell, ...]:
    found = Styled("found", "green") if place.found else "no"
    return printable(str(place.path)), found, printable(place.why)
