"""Reports as one HTML page that needs nothing else: no script, no font, no network."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Final

from bnfold.records import Report
from bnfold.render.page import Block, Cell, Column, Page, Styled, Table
from bnfold.render.text import blocks_of, warnings_of

_HEAD: Final = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>bnfold report</title>
<style>
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 80rem; margin: 2rem auto; padding: 0 1rem; }
section + section { border-top: 1px solid #8886; margin-top: 2rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; margin: 1rem 0; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .2rem .8rem .2rem 0; border-bottom: 1px solid #8884; vertical-align: top; }
.right { text-align: right; }
p { margin: .3rem 0; overflow-wrap: anywhere; }
.bold { font-weight: 600; }
.green { color: light-dark(#116329, #3fb950); }
.red { color: light-dark(#a40e26, #ff7b72); }
.yellow, .warning { color: light-dark(#7d4e00, #d29922); }
</style>
</head>
<body>
"""


def to_html(reports: Sequence[Report]) -> str:
    """The reports below one another, with all details, each with its warnings."""
    return f"{_HEAD}{''.join(map(_section, reports))}</body>\n</html>\n"


def _section(report: Report) -> str:
    parts = [_block(block) for block in blocks_of(report, Page(details=True)) if block]
    parts += [f'<p class="warning">warning: {escape(warning)}</p>' for warning in warnings_of(report)]
    return "<section>\n" + "".join(f"{part}\n" for part in parts) + "</section>\n"


def _block(block: Block) -> str:
    if not isinstance(block, Table):
        return _element("p", block)
    titles = "".join(_element("th", column.title, column) for column in block.columns)
    rows = "".join(
        f"<tr>{''.join(_element('td', cell, column) for column, cell in zip(block.columns, row, strict=True))}</tr>\n"
        for row in block.rows
    )
    return f'<div class="wide"><table>\n<thead><tr>{titles}</tr></thead>\n<tbody>\n{rows}</tbody>\n</table></div>'


def _element(tag: str, cell: Cell, column: Column | None = None) -> str:
    """A cell or a line; styles are rich's words, which are classes here."""
    classes = cell.style if isinstance(cell, Styled) else ""
    classes += " right" if column is not None and column.justify == "right" else ""
    attribute = f' class="{classes.strip()}"' if classes else ""
    return f"<{tag}{attribute}>{escape(cell.text if isinstance(cell, Styled) else cell)}</{tag}>"
