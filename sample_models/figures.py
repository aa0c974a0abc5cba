"""Our figures beside the published ones."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True)
class Figure:
    """One line: what was measured, what the source reports (empty where it reports nothing), and what we found."""

    what: str
    published: str
    ours: str


@dataclass(frozen=True)
class Figures:
    """A reproduced table; ``notes`` say how it was measured."""

    title: str
    rows: tuple[Figure, ...]
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        lines = [("", "published", "ours"), *((row.what, row.published, row.ours) for row in self.rows)]
        first, second, third = (max(map(len, column)) for column in zip(*lines, strict=True))
        table = (f"{what:<{first}}  {published:>{second}}  {ours:>{third}}" for what, published, ours in lines)
        return "\n".join([self.title, *(line.rstrip() for line in table), *self.notes])


def percent(share: float) -> str:
    """A share of images as the sources print it."""
    return f"{share:.2%}".replace("%", " %")


def paired_medians_ms(first: Callable[[], object], second: Callable[[], object], rounds: int) -> tuple[float, float]:
    """The median time of each call in milliseconds, run in turn (A B A B …) so that a slow moment hits both."""
    pairs = [(_time_ms(first), _time_ms(second)) for _ in range(rounds + 1)][1:]  # the first pair warms up
    return statistics.median(pair[0] for pair in pairs), statistics.median(pair[1] for pair in pairs)


def _time_ms(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return (time.perf_counter() - start) * 1000
