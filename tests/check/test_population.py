from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from bnfold.check.population import Population, PopulationTally

Array = NDArray[np.floating[Any]]


def population_of(values: Array, sizes: list[int] | None = None) -> Population:
    """The population that is seen in batches of these sizes; what is left over is the last batch."""
    tally = PopulationTally()
    for part in np.split(values, np.cumsum(sizes or [])):
        if len(part):
            tally.add(part)
    return tally.result()


@given(
    seed=st.integers(0, 2**32 - 1),
    sizes=st.lists(st.integers(1, 9), max_size=6),
    positions=st.sampled_from([(), (1,), (3,), (2, 5)]),
    offset=st.sampled_from([0.0, 1.0, -1e4]),
)
def test_batches_of_any_size_give_numpys_two_pass_mean_and_variance(
    seed: int, sizes: list[int], positions: tuple[int, ...], offset: float
) -> None:
    rng = np.random.default_rng(seed)
    values = rng.normal(offset, rng.uniform(0.1, 10), (sum(sizes) + 2, 3, *positions))
    found = population_of(values, sizes)
    axes = (0, *range(2, values.ndim))
    np.testing.assert_allclose(found.mean, values.mean(axis=axes), rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(found.variance, values.var(axis=axes, ddof=1), rtol=1e-10)
    assert (found.rows, found.values) == (len(values), values[:, 0].size)


def test_a_mean_a_billion_times_the_spread_does_not_drown_the_variance() -> None:
    values = 1e9 + np.random.default_rng(0).normal(size=(500, 2))
    found = population_of(values, [100, 100, 100])
    np.testing.assert_allclose(found.variance, values.var(axis=0, ddof=1), rtol=1e-6)


@pytest.mark.parametrize("constant", [0.0, 0.1, -1 / 3, 1e30])
def test_a_channel_that_never_moves_has_variance_zero_and_is_named(constant: float) -> None:
    values = np.random.default_rng(0).normal(size=(70, 3, 4)).astype(np.float32)
    values[:, 1] = constant
    found = population_of(values, [33, 1])
    assert found.constant_channels == (1,)
    assert found.mean[1] == np.float32(constant)


def test_float16_is_summed_without_overflow() -> None:
    found = population_of(np.full((4000, 1), 60_000, np.float16) * np.tile([1, -1], 2000)[:, None].astype(np.float16))
    np.testing.assert_allclose(found.variance, [60_000**2 * 4000 / 3999], rtol=1e-3)


# How sure it is


@pytest.mark.parametrize("shape", [(1, 3), (1, 3, 1), (1, 3, 28, 28)])
def test_a_single_sample_is_not_stable_however_many_positions_it_has(shape: tuple[int, ...]) -> None:
    found = population_of(np.random.default_rng(0).normal(size=shape))
    assert found.unstable_channels == 3
    assert found.rows_needed == 210


def test_a_single_value_a_channel_shows_no_spread() -> None:
    assert list(population_of(np.ones((1, 3))).variance) == [0, 0, 0]


def test_normal_values_have_the_error_of_the_formula() -> None:
    found = population_of(np.random.default_rng(1).normal(3, 5, (100_000, 2)), [1000] * 99)
    np.testing.assert_allclose(found.error, (2 / 99_999) ** 0.5, rtol=0.05)


def test_the_error_is_what_repeating_the_estimate_shows() -> None:
    rng = np.random.default_rng(2)
    repeated = [population_of(rng.exponential(size=(2000, 1, 3))) for _ in range(300)]
    seen = np.std([item.variance[0] for item in repeated])
    np.testing.assert_allclose(np.mean([item.error[0] for item in repeated]), seen, rtol=0.15)


def test_positions_that_all_say_the_same_are_no_further_samples() -> None:
    one = np.random.default_rng(3).normal(size=(300, 1, 1))
    found = population_of(np.repeat(one, 400, axis=2))
    np.testing.assert_allclose(found.error, population_of(one).error, rtol=0.1)


@pytest.mark.parametrize(("rows", "unstable"), [(150, 1), (260, 0)])
def test_about_two_hundred_normal_values_are_stable(rows: int, unstable: int) -> None:
    found = population_of(np.random.default_rng(4).normal(size=(rows, 1)))
    assert found.unstable_channels == unstable


def test_a_channel_that_fires_once_in_a_thousand_wants_more_samples_than_a_normal_one() -> None:
    values = np.random.default_rng(5).normal(size=(5000, 2))
    values[:, 1] = 0
    values[::1000, 1] = 1
    found = population_of(values)
    assert found.unstable_channels == 1
    assert 90_000 <= found.rows_needed <= 110_000


def test_values_that_are_not_finite_show() -> None:
    values = np.ones((4, 2), np.float32)
    values[2, 1] = np.inf
    assert list(np.isfinite(population_of(values).variance)) == [True, False]
