"""What the benchmarks print: one Markdown table, and the machine that it was measured on."""

from __future__ import annotations

from collections.abc import Sequence

from bnfold.check.environment import environment


def table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, padded to be read as it is; the first column is flush left, the others right."""
    widths = [max(map(len, column)) for column in zip(titles, *rows, strict=True)]
    rules = [":" + "-" * (widths[0] - 1), *("-" * (width - 1) + ":" for width in widths[1:])]
    lines = [
        [cell.ljust(width) if place == 0 else cell.rjust(width) for place, (cell, width) in enumerate(padded)]
        for padded in (list(zip(row, widths, strict=True)) for row in (titles, *rows))
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in (lines[0], rules, *lines[1:]))


def machine(packages: Sequence[str]) -> str:
    """Processor, cores, Python, and the versions of ``packages`` as far as they are installed."""
    here = environment(packages)
    versions = ", ".join(f"{name} {version}" for name, version in here.packages.items())
    return f"{here.processor}, {here.cpu_count} cores, Python {here.python}; {versions}"
