"""Numbers as people read them."""

from __future__ import annotations

import math
from typing import Final

_KILO: Final = 1000


def size(count: int) -> str:
    """A number of bytes in decimal units: ``999 B``, ``1.5 kB``, ``62.6 MB``."""
    if count < _KILO:
        return f"{count} B"
    number = float(count)
    for unit in ("kB", "MB", "GB"):
        number /= _KILO
        if number < 999.95:  # noqa: PLR2004 - what would be shown as 1000.0
            return f"{number:.1f} {unit}"
    return f"{number / _KILO:.1f} TB"


def error(value: float) -> str:
    """An error or a tolerance, two digits: ``0``, ``2.4e-07``, ``inf``."""
    return f"{value:.1e}" if value and math.isfinite(value) else f"{value:g}"


def milliseconds(value: float) -> str:
    """A time in ms with three digits, and never fewer than the whole milliseconds: ``0.0312``, ``48.1``, ``1250``."""
    if not math.isfinite(value) or value <= 0:
        return f"{value:g}"
    decimals = max(0, 2 - math.floor(math.log10(value)))
    return f"{value:.{decimals}f}"


def percent(fraction: float) -> str:
    """A fraction as percent with two decimals: ``98.92 %``."""
    return f"{100 * fraction:.2f} %"


def counted(count: int, noun: str) -> str:
    """``1 flip``, ``2 flips``, ``10,000 samples``."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
