"""The one rounding: from float64 to the dtype in which a tensor is stored.

bfloat16 values travel as their bits in uint16, since NumPy has no such dtype.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

F64Array = NDArray[np.float64]

LARGEST = {
    "float16": float(np.finfo(np.float16).max),
    "bfloat16": 3.3895313892515355e38,  # 0x7f7f: (2 − 2⁻⁷) · 2¹²⁷
    "float32": float(np.finfo(np.float32).max),
    "float64": float(np.finfo(np.float64).max),
}
"""The largest finite number of each dtype that a layer may be stored in."""


def rounded(values: F64Array, dtype: str) -> NDArray[Any]:
    """``values`` rounded once, to nearest-even; ``bfloat16`` as uint16 bits. Overflow gives Inf, without a warning."""
    if dtype == "bfloat16":
        return bfloat16_bits(values)
    with np.errstate(over="ignore"):
        return values.astype(dtype)


def rounded_product(values: NDArray[Any], factor: F64Array, dtype: str) -> NDArray[Any]:
    """``values · factor`` computed in float64 and rounded once, laid out in memory as ``values`` are.

    NumPy goes through them in pieces that stay in the processor's cache: no float64 copy is made, and a third of the
    time is needed of what widening, multiplying and rounding take one after the other.
    """
    if dtype == "bfloat16":
        return bfloat16_bits(np.multiply(values, factor, dtype=np.float64))
    result: NDArray[Any] = np.empty_like(values, dtype)
    with np.errstate(over="ignore", invalid="ignore"):
        np.multiply(values, factor, out=result, dtype=np.float64, casting="same_kind")
    return result


def bfloat16_bits(values: F64Array) -> NDArray[np.uint16]:
    """The bits of ``values`` as bfloat16, rounded once to nearest-even.

    float64 → float32 → bfloat16 rounds twice, and lands on the wrong neighbour where the first rounding makes a tie.
    Rounding to odd in the first step keeps the lost bits visible to the second (Boldo & Melquiond 2008, "Emulation of
    FMA and correctly rounded sums: proved algorithms using rounding to odd").
    """
    with np.errstate(over="ignore"):
        nearest = values.astype(np.float32)
    # Never across zero: the float32 neighbours of a tiny value include 0, whose last bit is even like any other's.
    direction = np.where(values > nearest, np.float32(np.inf), np.float32(-np.inf))
    is_even = (nearest.view(np.uint32) & 1) == 0
    is_inexact = (nearest != values) & ~np.isnan(values)
    odd = np.where(is_inexact & is_even, np.nextafter(nearest, direction), nearest)
    bits = np.ascontiguousarray(odd, dtype=np.float32).view(np.uint32)
    half_minus_tie = np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
    halves = ((bits.astype(np.uint64) + half_minus_tie) >> np.uint64(16)).astype(np.uint16)
    quiet_nan = ((bits >> np.uint32(16)) | np.uint32(0x40)).astype(np.uint16)
    return np.where(np.isnan(odd), quiet_nan, halves).reshape(values.shape)
