from __future__ import annotations

import math
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from bnfold.check.compare import Comparer
from bnfold.check.tolerance import Tolerances, default_tolerance, moved_by_one_ulp
from bnfold.records import Comparison, OutputDifference

Array = NDArray[Any]

nan, inf = np.nan, np.inf


def compared(original: Any, folded: Any, tolerances: Tolerances | None = None) -> Comparison:
    comparer = Comparer("test")
    comparer.add({"y": np.asarray(original)}, {"y": np.asarray(folded)}, rows=1)
    return comparer.result(tolerances or Tolerances(), {})


def difference(original: Any, folded: Any, tolerances: Tolerances | None = None) -> OutputDifference:
    (output,) = compared(original, folded, tolerances).outputs
    return output


def floats(*values: float) -> Array:
    return np.array(values, np.float32)


DIFFERENT = {
    "above the tolerance": (floats(1, 2), floats(1, 2.0001)),
    "one NaN": (floats(1, 2), floats(1, nan)),
    "NaN gone": (floats(1, nan), floats(1, 2)),
    "NaN in other places": (floats(nan, 2), floats(2, nan)),
    "Inf of the other sign": (floats(1, inf), floats(1, -inf)),
    "Inf gone": (floats(1, inf), floats(1, 3e38)),
    "NaN for Inf": (floats(1, inf), floats(1, nan)),
    "anything but zero for zero": (floats(0, 0), floats(0, 1e-30)),
    "an integer": (np.array([5, 2**62]), np.array([5, 2**62 + 1])),
    "a boolean": (np.array([True, False]), np.array([True, True])),
    "text": (np.array(["a", "b"], object), np.array(["a", "c"], object)),
    "a complex part": (np.array([1 + 1j], np.complex64), np.array([1 + 1.1j], np.complex64)),
    "float64 beyond its range": (np.array([1.7e308]), np.array([-1.7e308])),
}

SAME = {
    "identical": (floats(1, 2), floats(1, 2)),
    "within the tolerance": (floats(1, 2), floats(1, 2.00001)),
    "NaN in the same places": (floats(1, nan), floats(1, nan)),
    "Inf in the same places": (floats(inf, -inf, 1), floats(inf, -inf, 1)),
    "zeros": (floats(0, 0), floats(0, -0.0)),
    "empty": (np.zeros((0, 10), np.float32), np.zeros((0, 10), np.float32)),
    "a scalar": (np.float32(3), np.float32(3)),
    "integers": (np.array([1, 2]), np.array([1, 2])),
    "text": (np.array(["a"], object), np.array(["a"], object)),
    "float16": (np.array([1, 2], np.float16), np.array([1, 2.03], np.float16)),
    "bfloat16": (np.array([1, 2], ml_dtypes.bfloat16), np.array([1, 2.03], ml_dtypes.bfloat16)),
    "complex": (np.array([1 + 1j], np.complex64), np.array([1 + 1.000001j], np.complex64)),
}


@pytest.mark.parametrize(("original", "folded"), DIFFERENT.values(), ids=DIFFERENT.keys())
def test_what_differs_fails(original: Array, folded: Array) -> None:
    assert not compared(original, folded).passed


@pytest.mark.parametrize(
    ("folded", "statement"),
    [
        pytest.param({}, "the folded model has no output 'y'", id="missing"),
        pytest.param({"y": floats(1), "z": floats(1)}, "the original model has no output 'z'", id="added"),
        pytest.param({"y": np.ones(1)}, "output 'y' is float32 in the original and float64", id="type"),
        pytest.param({"y": floats(1, 1)}, "output 'y' has shape (1,) in the original and (2,)", id="shape"),
        pytest.param({"y": np.float32(1)}, "output 'y' has shape (1,) in the original and ()", id="rank"),
    ],
)
def test_outputs_that_cannot_be_compared_fail_with_a_statement(folded: dict[str, Array], statement: str) -> None:
    comparer = Comparer("test")
    for _ in range(2):
        comparer.add({"y": floats(1)}, folded, rows=1)
    result = comparer.result(Tolerances(), {})
    assert not result.passed
    assert len(result.differences) == 1
    assert statement in result.differences[0]


def test_nothing_compared_is_no_parity() -> None:
    assert not Comparer("test").result(Tolerances(), {}).passed


@pytest.mark.parametrize(("original", "folded"), SAME.values(), ids=SAME.keys())
def test_what_is_the_same_passes(original: Array, folded: Array) -> None:
    assert compared(original, folded).passed


def test_the_numbers_are_gathered_over_batches() -> None:
    comparer = Comparer("test")
    comparer.add({"y": floats(1, nan)}, {"y": floats(1.5, nan)}, rows=2)
    comparer.add({"y": floats(-4, inf)}, {"y": floats(-4.25, inf)}, rows=2)
    (output,) = comparer.result(Tolerances(), {}).outputs
    assert output.max_abs_error == 0.5
    assert output.mean_abs_error == 0.375
    assert output.max_abs_value == 4
    assert output.relative_error == 0.125
    assert (output.nan_count, output.inf_count) == (1, 1)
    assert output.smallest_passing_tolerance == 0.125
    assert output.tolerance == 1e-5


@pytest.mark.parametrize(
    ("tolerances", "passes"),
    [
        pytest.param(Tolerances(rtol={None: 0.1}), True, id="rtol for all"),
        pytest.param(Tolerances(rtol={"y": 0.1}), True, id="rtol for this output"),
        pytest.param(Tolerances(rtol={None: 0.1, "y": 0.01}), False, id="this output before all"),
        pytest.param(Tolerances(rtol={"z": 0.1}), False, id="another output's"),
        pytest.param(Tolerances(atol={None: 0.21}), True, id="atol"),
        pytest.param(Tolerances(atol={None: 0.19}), False, id="too small an atol"),
        pytest.param(Tolerances(atol={None: 0.1}, rtol={None: 0.026}), True, id="both add up"),
        pytest.param(Tolerances(atol={None: 0.0}), False, id="atol alone leaves no rtol"),
    ],
)
def test_given_tolerances_replace_the_default(tolerances: Tolerances, passes: bool) -> None:  # noqa: FBT001 - a table's column
    assert compared(floats(1, 4), floats(1, 4.2), tolerances).passed is passes


def test_an_atol_judges_zeros_and_no_rtol_does() -> None:
    assert compared(floats(0, 0), floats(0, 1e-9), Tolerances(atol={None: 1e-8})).passed
    output = difference(floats(0, 0), floats(0, 1e-9), Tolerances(rtol={None: 1.0}))
    assert not output.passed
    assert output.smallest_passing_tolerance is None


def test_integers_stay_exact_whatever_is_allowed() -> None:
    assert not compared([100], [101], Tolerances(atol={None: 5.0}, rtol={None: 1.0})).passed


@given(
    hnp.arrays(np.float32, 5, elements=st.floats(-1000, 1000, width=32)),
    hnp.arrays(np.float32, 5, elements=st.floats(-1000, 1000, width=32)),
)
def test_the_smallest_passing_tolerance_passes_and_the_next_smaller_does_not(a: Array, b: Array) -> None:
    smallest = difference(a, b).smallest_passing_tolerance
    if smallest is None:
        assert not a.any()
        assert b.any()
        return
    assert compared(a, b, Tolerances(rtol={None: smallest})).passed
    if smallest > 0:
        assert not compared(a, b, Tolerances(rtol={None: math.nextafter(smallest, 0)})).passed


@pytest.mark.parametrize(
    ("dtype", "rounding", "expected"),
    [
        ("float32", 0.0, 1e-5),
        ("float32", 1e-6, 1.6e-5),
        ("float32", 1.0, 1e-3),
        ("float16", 0.0, 2e-2),
        ("bfloat16", 1.0, 2.0),
        ("float64", 1e-13, 1.6e-12),
        ("int64", 1.0, 0.0),
    ],
)
def test_the_tolerance_follows_the_type_and_its_rounding(dtype: str, rounding: float, expected: float) -> None:
    assert default_tolerance(np.dtype(dtype), rounding) == pytest.approx(expected)


def test_rounding_is_relative_to_the_largest_value() -> None:
    comparer = Comparer("test")
    original = {"y": floats(1, -8, nan)}
    comparer.add(original, original, rows=1)
    comparer.add_moved(original, {"y": floats(1.5, -8, 3)})
    assert comparer.rounding_errors() == {"y": 0.0625}


def doubts(*batches: Array, rows: int = 2) -> list[str]:
    comparer = Comparer("test")
    for batch in batches:
        comparer.add({"y": batch}, {"y": batch}, rows=rows)
    return comparer.doubts(comparer.result(Tolerances(), {}))


@pytest.mark.parametrize(
    "batches",
    [
        pytest.param([np.ones((2, 3), np.float32)], id="within a batch"),
        pytest.param([np.ones((1, 3), np.float32)] * 2, id="over batches, without rows"),
        pytest.param([floats(1, 1 + 1e-6)], id="moving less than the tolerance"),
        pytest.param([floats(nan, nan)], id="NaN alone"),
        pytest.param([np.zeros((2, 0), np.float32)], id="empty"),
        pytest.param([np.array([7, 7])], id="integers"),
    ],
)
def test_an_output_that_proves_nothing_is_doubted(batches: list[Array]) -> None:
    (doubt,) = doubts(*batches)
    assert doubt.endswith("agreement on it proves nothing")


@pytest.mark.parametrize(
    "batches",
    [
        pytest.param([floats(1, 2)], id="rows differ"),
        pytest.param([floats(1, 1), floats(1, 2)], id="in a later batch"),
        pytest.param([floats(1, 2, 3), floats(1, 2)], id="its size depends on the input"),
        pytest.param([np.ones((1, 3), np.float32)], id="one sample says nothing either way"),
        pytest.param([np.array(["a", "a"], object)], id="text"),
    ],
)
def test_an_output_that_moves_is_not_doubted(batches: list[Array]) -> None:
    assert doubts(*batches) == []


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ml_dtypes.bfloat16])
def test_inputs_move_to_their_neighbours(dtype: Any) -> None:
    x = np.array([1, -3, 0.5, 0, nan, inf, float(np.finfo(np.float16).max)], dtype)
    moved = moved_by_one_ulp({"x": x, "ids": np.arange(3)}, np.random.default_rng(0))
    assert moved is not None
    assert moved["x"].dtype == x.dtype
    assert np.array_equal(moved["ids"], np.arange(3))
    changed = moved["x"].astype(np.float64) != x.astype(np.float64)
    assert changed[:3].all()
    assert moved["x"][3] == 0
    assert np.isnan(moved["x"][4])
    assert moved["x"][5] == inf
    back = np.nextafter(moved["x"][:3], x[:3])
    assert np.array_equal(back, x[:3])


def test_without_floats_there_is_no_rounding_to_measure() -> None:
    assert moved_by_one_ulp({"ids": np.arange(3)}, np.random.default_rng(0)) is None
