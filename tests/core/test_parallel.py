"""Where one kernel lies in another: the taps that see the same elements, for any size of the input."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bnfold.core.parallel import place_within
from bnfold.core.traits import Window


def window(kernel: int, before: int = 0, after: int | None = None, *, stride: int = 1, dilation: int = 1) -> Window:
    return Window((kernel,), (stride,), (dilation,), (before,), (before if after is None else after,))


PLACES = {
    "1 in 3": (window(1), window(3, 1), 1),
    "3 in 3": (window(3, 1), window(3, 1), 0),
    "3 in 7": (window(3, 1), window(7, 3), 2),
    "1 in 3, stride 2": (window(1, stride=2), window(3, 1, stride=2), 1),
    "1 in a dilated 3": (window(1), window(3, 2, dilation=2), 1),
    "a dilated 1 in 3": (window(1, dilation=3), window(3, 1), 1),
    "3 in 5, both dilated": (window(3, 2, dilation=2), window(5, 4, dilation=2), 1),
    "1 in 2, more zeros before": (window(1), window(2, 1, 0), 1),
    "1 in 2, more zeros after": (window(1), window(2, 0, 1), 0),
    "off the middle": (window(1), window(3, 2, 0), 2),
    "another stride": (window(1, stride=2), window(3, 1), None),
    "another dilation": (window(3, 1), window(5, 4, dilation=2), None),
    "no padding to match": (window(1), window(3, 0), None),
    "too much padding": (window(1), window(3, 2), None),
    "an even kernel, padded alike": (window(1), window(2, 1), None),
    "the larger in the smaller": (window(3, 1), window(1), None),
    "beyond the end": (window(1), window(3, 3, -1), None),
    "between two taps": (window(1), window(3, 1, 3, dilation=2), None),
    "more axes": (Window((1, 1), (1, 1), (1, 1), (0, 0), (0, 0)), window(3, 1), None),
}


@pytest.mark.parametrize(("inner", "outer", "place"), PLACES.values(), ids=PLACES)
def test_a_kernel_lies_within_another(inner: Window, outer: Window, place: int | None) -> None:
    assert place_within(inner, outer) == (None if place is None else (place,))


windows = st.builds(
    Window,
    *(st.tuples(st.integers(low, high)) for low, high in ((1, 5), (1, 2), (1, 3), (0, 5), (0, 5))),
)


@given(inner=windows, outer=windows)
def test_where_it_does_the_taps_read_the_same_elements_at_every_position(inner: Window, outer: Window) -> None:
    place = place_within(inner, outer)
    reads = {
        size: [taps_read(window, size) for window in (inner, outer)]
        for size in (7, 8)
        if min(positions(window, size) for window in (inner, outer)) > 0
    }
    if place is None:
        return
    for size, (small, large) in reads.items():
        assert positions(inner, size) == positions(outer, size)
        assert np.array_equal(small, large[:, place[0] : place[0] + inner.kernel[0]])


def positions(moved: Window, size: int) -> int:
    reach = moved.dilations[0] * (moved.kernel[0] - 1) + 1
    return (size + moved.before[0] + moved.after[0] - reach) // moved.strides[0] + 1


def taps_read(moved: Window, size: int) -> np.ndarray:
    """Which element each tap reads, by position and tap; −1 where it is a zero of the padding."""
    read = np.full((positions(moved, size), moved.kernel[0]), -1)
    for position, tap in product(*map(range, read.shape)):
        element = position * moved.strides[0] - moved.before[0] + tap * moved.dilations[0]
        read[position, tap] = element if 0 <= element < size else -1
    return read
