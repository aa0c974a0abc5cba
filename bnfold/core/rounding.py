"""The one rounding: from float64 to the dtype in which a tensor is stored.

bfloat16 values travel as their bits in uint16, since NumPy has no such dtype.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

PIECE_BYTES: Final = 1 << 20
"""Small enough for the second level of a processor's cache, and for malloc to give the same pages again."""

BUFFERED_ELEMENTS: Final = 1024
"""NumPy widens, multiplies and rounds so many at a time. With its own 8,192, in float64, they leave the first level of
a processor's cache in between, and all of it takes nearly twice as long."""

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
    with np.errstate(over="ignore", invalid="ignore"), _small_buffers():
        np.multiply(values, factor, out=result, dtype=np.float64, casting="same_kind")
    return result


@contextmanager
def _small_buffers() -> Iterator[None]:
    before = np.setbufsize(BUFFERED_ELEMENTS)
    try:
        yield
    finally:
        np.setbufsize(before)


def rounded_pieces(values: NDArray[Any], factor: F64Array, dtype: str) -> Iterator[NDArray[Any]]:
    """``rounded_product`` of arrays of four axes, piece by piece in C order.

    A piece stays in the processor's cache until it is written and hashed, and the memory of the last one is used
    again: for 100 MB that takes a third of the time of one array of that size.
    """
    for groups, rows in _blocks(values.shape, PIECE_BYTES // max(1, values.itemsize)):
        own_groups, own_rows = (size > 1 for size in factor.shape[:2])  # others hold one number for all
        part = factor[groups if own_groups else slice(None), rows if own_rows else slice(None)]
        yield np.ascontiguousarray(rounded_product(values[groups, rows], part, dtype))


def _blocks(shape: tuple[int, ...], elements: int) -> Iterator[tuple[slice, slice]]:
    """Slices of the first two axes that follow one another in C order, with about so many elements each."""
    groups, rows = shape[:2]
    row = max(1, math.prod(shape[2:]))
    if rows * row <= elements:
        step = elements // max(1, rows * row)
        yield from ((slice(start, start + step), slice(None)) for start in range(0, groups, step))
        return
    step = max(1, elements // row)
    yield from (
        (slice(group, group + 1), slice(start, start + step))
        for group in range(groups)
        for start in range(0, rows, step)
    )


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
