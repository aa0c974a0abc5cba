"""How far apart two outputs may be and still count as the same."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bnfold.runtime.session import Array, Feeds, is_float

# Relative to max|a|. Measured on a trained MNIST network in float32: a correct fold is 2e-7 away, a 1 % error in a
# single channel at least 3.8e-5.
_BASE = {
    "float64": 1e-12,
    "complex128": 1e-12,
    "float32": 1e-5,
    "complex64": 1e-5,
    "float16": 2e-2,
    "bfloat16": 2e-2,
}
_ROUNDING_FACTOR = 16
_CEILING_FACTOR = 100


@dataclass(frozen=True)
class Tolerances:
    """What the user allows with ``--atol`` and ``--rtol``: max|a − b| ≤ atol + rtol·max|a|.

    Keys are output names, or None for every output; what stands for an output goes before what stands for all. An
    output for which neither is given has the tolerance of its type.
    """

    atol: Mapping[str | None, float] = field(default_factory=dict)
    rtol: Mapping[str | None, float] = field(default_factory=dict)

    def limits(self, output: str, dtype: np.dtype[Any], rounding_error: float) -> tuple[float, float]:
        """``(atol, rtol)`` for ``output``."""
        atol = self.atol.get(output, self.atol.get(None))
        rtol = self.rtol.get(output, self.rtol.get(None))
        if atol is None and rtol is None:
            return 0.0, default_tolerance(dtype, rounding_error)
        return atol or 0.0, rtol or 0.0

    def names(self) -> set[str]:
        """The outputs that are named."""
        return {name for name in (*self.atol, *self.rtol) if name is not None}


def default_tolerance(dtype: np.dtype[Any], rounding_error: float) -> float:
    """The tolerance of an output's type, relative to max|a|; 0 for a type without rounding.

    A network that magnifies rounding is given 16 times what it makes of one ulp in its inputs, but never more than
    100 times the type's own tolerance.
    """
    base = _BASE.get(dtype.name, 0.0)
    return min(max(base, _ROUNDING_FACTOR * rounding_error), _CEILING_FACTOR * base)


def moved_by_one_ulp(feeds: Feeds, generator: np.random.Generator) -> dict[str, Array] | None:
    """``feeds`` with every float moved to a neighbour, up or down at random; None where there are no floats."""
    if not any(is_float(array.dtype) for array in feeds.values()):
        return None
    return {name: _moved(array, generator) if is_float(array.dtype) else array for name, array in feeds.items()}


def _moved(array: Array, generator: np.random.Generator) -> Array:
    """What is finite moves and stays finite. Zeros stay: their neighbours are subnormal, slow, and change nothing."""
    target = np.where(generator.integers(0, 2, array.shape, dtype=bool), np.inf, -np.inf).astype(array.dtype)
    with np.errstate(all="ignore"):
        neighbour = np.nextafter(array, target)
    movable = (array != 0) & np.isfinite(array) & np.isfinite(neighbour)
    return np.where(movable, neighbour, array)
