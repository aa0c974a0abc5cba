from __future__ import annotations

from fractions import Fraction

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bnfold.core.rounding import LARGEST, rounded

FINITE_BFLOAT16 = np.arange(0x7F80, dtype=np.uint16)
"""The bits of every bfloat16 from 0 to the largest, in order."""
NEXT_POWER_OF_TWO = Fraction(2) ** 128


def exact_bfloat16(value: float) -> int:
    """The nearest bfloat16 by exact arithmetic: of two equally near ones the one with the even last bit."""
    if np.isnan(value):
        return 0x7FC0
    grid = FINITE_BFLOAT16.view(ml_dtypes.bfloat16).astype(np.float64)
    above = int(np.searchsorted(grid, abs(value)))
    candidates = [bits for bits in (above - 1, above) if 0 <= bits <= len(grid)]

    def distance(bits: int) -> Fraction:
        return abs(Fraction(abs(value)) - (NEXT_POWER_OF_TWO if bits == len(grid) else Fraction(float(grid[bits]))))

    best = min(candidates, key=lambda bits: (distance(bits), bits & 1))
    return best | (0x8000 if np.signbit(value) else 0)


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_bfloat16_rounds_once_to_nearest_even(value: float) -> None:
    assert int(rounded(np.array([value]), "bfloat16")[0]) == exact_bfloat16(value)


@given(st.integers(0, 0x7F7F), st.integers(-3, 3), st.sampled_from([-1, 1]))
def test_bfloat16_next_to_a_tie(bits: int, ulps: int, sign: int) -> None:
    lower, upper = (
        float(np.array([item], np.uint16).view(ml_dtypes.bfloat16)[0].astype(np.float64)) for item in (bits, bits + 1)
    )
    if not np.isfinite(upper):
        upper = 2.0**128
    value = (lower + upper) / 2
    for _ in range(abs(ulps)):
        value = float(np.nextafter(value, np.inf if ulps > 0 else -np.inf))
    value *= sign
    assert int(rounded(np.array([value]), "bfloat16")[0]) == exact_bfloat16(value)


def test_bfloat16_where_torch_and_ml_dtypes_round_twice() -> None:
    value = 1.0 + 2.0**-8 + 2.0**-40  # just above a tie; float32 drops the last bit and makes it one
    assert int(rounded(np.array([value]), "bfloat16")[0]) == 0x3F81
    assert int(np.array([value]).astype(ml_dtypes.bfloat16).view(np.uint16)[0]) == 0x3F80


@pytest.mark.parametrize("value", [np.nan, -np.nan, np.inf, -np.inf])
def test_bfloat16_keeps_nan_and_infinity(value: float) -> None:
    widened = rounded(np.array([value]), "bfloat16").view(ml_dtypes.bfloat16).astype(np.float64)[0]
    assert np.array_equal(widened, value, equal_nan=True)


def test_float16_rounds_once_where_going_through_float32_would_not() -> None:
    value = np.array([1.0 + 2.0**-11 + 2.0**-40])
    assert rounded(value, "float16")[0] == np.float16(1 + 2.0**-10)
    assert value.astype(np.float32).astype(np.float16)[0] == np.float16(1)


@pytest.mark.parametrize(("dtype", "largest"), LARGEST.items())
def test_largest_numbers_survive_and_twice_as_much_does_not(dtype: str, largest: float) -> None:
    values = rounded(np.array([largest, -largest]), dtype)
    widened = values.view(ml_dtypes.bfloat16).astype(np.float64) if dtype == "bfloat16" else values.astype(np.float64)
    assert widened.tolist() == [largest, -largest]
    with np.errstate(over="ignore"):
        beyond = rounded(np.array([largest]) * 2, dtype)
    infinite = beyond.view(ml_dtypes.bfloat16).astype(np.float64) if dtype == "bfloat16" else beyond
    assert np.isinf(infinite).all()


def test_shape_and_emptiness_are_kept() -> None:
    assert rounded(np.zeros((2, 0, 3)), "bfloat16").shape == (2, 0, 3)
    assert rounded(np.zeros((2, 1, 3)), "float16").shape == (2, 1, 3)
