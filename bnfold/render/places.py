"""What ``data where`` says about the places a data set is looked for, and ``data fetch`` about what it put there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from bnfold.files.names import printable
from bnfold.files.writing import same_file
from bnfold.render.numbers import size
from bnfold.render.page import Block, Cell, Column, Styled, Table

if TYPE_CHECKING:
    from bnfold.data import Place
    from bnfold.data.fetch import Fetched


def place_blocks(places: Sequence[Place]) -> list[Block]:
    """Each place with what is there, then which one is used."""
    columns = (Column("place", wraps=True), Column("MNIST"), Column("what is there"))
    table = Table(columns, [_row(place) for place in places])
    used = next((place for place in places if place.found), None)
    if used is None:
        advice = "Set BNFOLD_MNIST to the directory that holds it, or download it: bnfold data fetch mnist"
        return [table, "", f"MNIST was not found. {advice}"]
    return [table, "", f"MNIST is read from {printable(str(used.path))}"]


def place_data(place: Place) -> dict[str, str | bool]:
    """One place, ready for JSON."""
    return {"data": "mnist", "path": str(place.path), "found": place.found, "what": place.why}


def fetched_blocks(files: Sequence[Fetched], places: Sequence[Place]) -> list[Block]:
    """Each file with where it came from, then where they are; ``places`` is where bnfold looks for them."""
    columns = (Column("file"), Column("size", "right"), Column("from", wraps=True))
    rows = [(printable(file.path.name), size(file.size_bytes), printable(file.address) or "here") for file in files]
    folder = files[0].path.parent
    blocks: list[Block] = [Table(columns, rows), "", f"MNIST is in {printable(str(folder))}"]
    if not any(same_file(folder, place.path) for place in places):
        blocks.append("bnfold does not look there by itself: set BNFOLD_MNIST to it, or give it as --data DIR")
    return blocks


def fetched_data(file: Fetched) -> dict[str, str | int | None]:
    """One file, ready for JSON; ``url`` is null where it was there already."""
    return {"data": "mnist", "path": str(file.path), "bytes": file.size_bytes, "url": file.address or None}


def _row(place: Place) -> tuple[Cell, ...]:
    found = Styled("found", "green") if place.found else "no"
    return printable(str(place.path)), found, printable(place.why)
