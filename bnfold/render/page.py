"""The page that text is laid out on: how wide it is, whether it has colours, and tables that fit it.

A page is a terminal of so many columns, or endless: what goes into a file or a pipe is never cut to a width.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import StringIO
from typing import TYPE_CHECKING, Literal, TextIO

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table as RichTable
    from rich.text import Text

_ENDLESS = 1_000_000
_GAP = 2
"""Blanks between two columns of a table."""


@dataclass(frozen=True)
class Page:
    """``width`` in columns, None without end; ``details`` asks for everything that is known."""

    width: int | None = None
    colours: bool = False
    details: bool = False


@dataclass(frozen=True)
class Styled:
    """Text in one style of rich's (``bold``, ``green``); what is in it is never read as markup."""

    text: str
    style: str = ""


Cell = str | Styled


@dataclass(frozen=True)
class Column:
    """A column of a table. When the page is too narrow, the column with the highest ``drop`` goes first; 0 stays.

    Where those that stay are still too wide, the columns with ``wraps`` go on in the next line: what tells two names
    apart often stands at their ends.
    """

    title: str
    justify: Literal["left", "right"] = "left"
    drop: int = 0
    wraps: bool = False


@dataclass(frozen=True)
class Table:
    """Rows below titled columns, one line each where the page is wide enough."""

    columns: tuple[Column, ...]
    rows: Sequence[tuple[Cell, ...]]


Block = Cell | Table


def page_of(stream: TextIO, environment: Mapping[str, str] = os.environ, *, details: bool = False) -> Page:
    """The page that ``stream`` is: the terminal's width and colours, or a plain endless page for anything else."""
    if not stream.isatty():
        return Page(details=details)
    plain = bool(environment.get("NO_COLOR")) or environment.get("TERM") == "dumb"
    try:
        width = os.get_terminal_size(stream.fileno()).columns
    except OSError:  # a terminal only by name, as in some editors
        width = 0
    return Page(width=width or 80, colours=not plain, details=details)


def is_live(stream: TextIO, environment: Mapping[str, str] = os.environ) -> bool:
    """Whether lines on ``stream`` can be redrawn."""
    return stream.isatty() and environment.get("TERM") != "dumb"


def laid_out(blocks: Sequence[Block], page: Page) -> str:
    """The blocks below each other; without colours there is no control code in it and no blank at a line's end."""
    if page.width is None and not page.colours:
        return _for_a_file(blocks)
    console = _console(page)
    for block in blocks:
        if isinstance(block, Table):
            console.print(_drawn(block, page), crop=page.width is not None)
        else:
            console.print(_text(block), soft_wrap=page.width is None)
    drawn = console.file.getvalue() if isinstance(console.file, StringIO) else ""
    return drawn if page.colours else "".join(f"{line.rstrip()}\n" for line in drawn.split("\n")[:-1])


def _for_a_file(blocks: Sequence[Block]) -> str:
    """The same without rich: nothing is cut or coloured, and importing it is 25 ms of a small model's 400."""
    lines = [line for block in blocks for line in (_rows(block) if isinstance(block, Table) else [_plain(block)])]
    return "".join(f"{line.rstrip()}\n" for text in lines for line in text.split("\n"))


def _rows(table: Table) -> list[str]:
    """The title line and the rows, in columns as wide as their widest cell on the screen."""
    from rich.cells import cell_len

    rows = [tuple(column.title for column in table.columns), *(tuple(map(_plain, row)) for row in table.rows)]
    lines = [[""] * len(table.columns) for _ in rows]
    for index, column in enumerate(table.columns):
        width = max(cell_len(row[index]) for row in rows)
        for line, row in zip(lines, rows, strict=True):
            blanks = " " * (width - cell_len(row[index]))
            line[index] = blanks + row[index] if column.justify == "right" else row[index] + blanks
    return [(" " * _GAP).join(line) for line in lines]


def _console(page: Page) -> Console:
    from rich.console import Console

    return Console(
        file=StringIO(),
        width=page.width or _ENDLESS,
        height=100,  # without a height, rich would ask the environment for both
        force_terminal=page.colours,
        color_system="standard" if page.colours else None,
        no_color=not page.colours,
        force_jupyter=False,
        legacy_windows=False,
        markup=False,
        emoji=False,
        highlight=False,
    )


def _drawn(table: Table, page: Page) -> RichTable:
    from rich.table import Table as RichTable

    shown = _fitting(table, page.width)
    drawn = RichTable(box=None, pad_edge=False, padding=(0, _GAP, 0, 0), header_style="bold")
    for index in shown:
        column = table.columns[index]
        overflow: Literal["fold", "ellipsis"] = "fold" if column.wraps else "ellipsis"
        drawn.add_column(_text(column.title), justify=column.justify, no_wrap=not column.wraps, overflow=overflow)
    for row in table.rows:
        drawn.add_row(*(_text(row[index]) for index in shown))
    return drawn


def _fitting(table: Table, width: int | None) -> list[int]:
    """The columns that fit side by side: the most expendable go until they do, or only those that stay are left."""
    from rich.cells import cell_len

    widths = [
        max(cell_len(_plain(cell)) for cell in (column.title, *(row[index] for row in table.rows)))
        for index, column in enumerate(table.columns)
    ]
    shown = list(range(len(table.columns)))
    while width is not None and sum(widths[index] + _GAP for index in shown) - _GAP > width:
        expendable = max(shown, key=lambda index: table.columns[index].drop)
        if table.columns[expendable].drop == 0:
            break
        shown.remove(expendable)
    return shown


def _text(cell: Cell) -> Text:
    from rich.text import Text

    return Text(cell) if isinstance(cell, str) else Text(cell.text, style=cell.style)


def _plain(cell: Cell) -> str:
    return cell if isinstance(cell, str) else cell.text
