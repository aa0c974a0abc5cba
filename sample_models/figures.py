"""Our figures beside the published ones, and the curves that go with them: plain data, kept as JSON."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True)
class Figure:
    """One line: what was measured, what the source reports (empty where it reports nothing), and what we found."""

    what: str
    published: str
    ours: str


@dataclass(frozen=True)
class Curve:
    """The mean ``y`` of several runs at each ``x``, between ``low`` and ``high``, their extremes."""

    label: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]

    @classmethod
    def of_many(cls, label: str, x: Sequence[float], runs: Sequence[Sequence[float]]) -> Self:
        """The curve of ``runs``, each a value at each ``x``."""
        values = np.array(runs)
        mean, low, high = (tuple(map(float, each)) for each in (values.mean(0), values.min(0), values.max(0)))
        return cls(label, tuple(map(float, x)), mean, low, high)

    @classmethod
    def from_json(cls, found: dict[str, Any]) -> Self:
        """The curve that was written as this object."""
        return cls(found["label"], *(tuple(found[key]) for key in ("x", "y", "low", "high")))


@dataclass(frozen=True)
class Chart:
    """Curves in one pair of axes. ``log_x``: x is drawn by its logarithm; ``ticks``: bars, x counts these names."""

    title: str
    x_label: str
    y_label: str
    curves: tuple[Curve, ...]
    log_x: bool = False
    ticks: tuple[str, ...] = ()

    @classmethod
    def from_json(cls, found: dict[str, Any]) -> Self:
        """The chart that was written as this object."""
        parts = {"curves": tuple(map(Curve.from_json, found["curves"])), "ticks": tuple(found["ticks"])}
        return cls(**found | parts)


@dataclass(frozen=True)
class Figures:
    """A reproduced table; ``notes`` say how it was measured, and where it differs from its source."""

    title: str
    rows: tuple[Figure, ...]
    notes: tuple[str, ...] = ()
    charts: tuple[Chart, ...] = ()

    def __str__(self) -> str:
        lines = [("", "published", "ours"), *((row.what, row.published, row.ours) for row in self.rows)]
        first, second, third = (max(map(len, column)) for column in zip(*lines, strict=True))
        table = (f"{what:<{first}}  {published:>{second}}  {ours:>{third}}" for what, published, ours in lines)
        return "\n".join([self.title, *(line.rstrip() for line in table), *self.notes])

    def to_json(self) -> str:
        """All of it, for ``from_json``."""
        return json.dumps(asdict(self), ensure_ascii=False, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Self:
        """What ``to_json`` wrote. Raises ValueError, KeyError or TypeError for anything else."""
        found = json.loads(text)
        return cls(
            title=found["title"],
            rows=tuple(Figure(**row) for row in found["rows"]),
            notes=tuple(found["notes"]),
            charts=tuple(map(Chart.from_json, found["charts"])),
        )


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
