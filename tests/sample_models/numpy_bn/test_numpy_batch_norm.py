from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch.nn.functional import batch_norm

from sample_models.numpy_bn.batch_norm import (
    Statistics,
    backward_by_graph,
    backward_in_closed_form,
    forward_in_test,
    forward_in_training,
)

Array = NDArray[Any]

EPSILON = 1e-5
STEP = 1e-5
BACKWARDS = {"by graph": backward_by_graph, "in closed form": backward_in_closed_form}


def batch(seed: int, rows: int = 4, features: int = 5) -> tuple[Array, Array, Array, Array]:
    """x, γ, β and the loss's gradient for y."""
    random = np.random.default_rng(seed)
    x = 5 * random.standard_normal((rows, features)) + 12
    return x, *random.standard_normal((2, features)), random.standard_normal((rows, features))


def numerical_gradient(function: Callable[[Array], Array], at: Array, upstream: Array) -> Array:
    """Central differences of Σ upstream·function, element by element."""
    gradient = np.zeros_like(at)
    for index in np.ndindex(at.shape):
        moved = np.zeros_like(at)
        moved[index] = STEP
        gradient[index] = ((function(at + moved) - function(at - moved)) * upstream).sum() / (2 * STEP)
    return gradient


def relative_error(ours: Array, theirs: Array) -> float:
    """The largest of all elements, as the source of the exercise measures it."""
    return float((np.abs(ours - theirs) / np.maximum(1e-8, np.abs(ours) + np.abs(theirs))).max())


@pytest.mark.parametrize("backward", BACKWARDS.values(), ids=BACKWARDS)
def test_gradients_agree_with_numerical_ones(backward: Callable[..., Any]) -> None:
    x, gamma, beta, upstream = batch(0)
    _y, _statistics, forward = forward_in_training(x, gamma, beta, EPSILON)

    found = backward(upstream, forward)

    for ours, wiggle, at in (
        (found.x, lambda one: forward_in_training(one, gamma, beta, EPSILON)[0], x),
        (found.gamma, lambda one: forward_in_training(x, one, beta, EPSILON)[0], gamma),
        (found.beta, lambda one: forward_in_training(x, gamma, one, EPSILON)[0], beta),
    ):
        assert relative_error(ours, numerical_gradient(wiggle, at, upstream)) < 1e-7


@given(seed=st.integers(0, 2**32 - 1), rows=st.integers(2, 40), features=st.integers(1, 12))
def test_both_forms_of_the_gradients_are_one(seed: int, rows: int, features: int) -> None:
    x, gamma, beta, upstream = batch(seed, rows, features)
    _y, _statistics, forward = forward_in_training(x, gamma, beta, epsilon=1e-3)

    for ours, theirs in zip(
        backward_by_graph(upstream, forward), backward_in_closed_form(upstream, forward), strict=True
    ):
        assert np.abs(ours - theirs).max() < 1e-12 * max(1, np.abs(ours).max())


@given(seed=st.integers(0, 2**32 - 1), rows=st.integers(2, 40), features=st.integers(1, 12))
def test_training_and_its_gradients_are_pytorchs(seed: int, rows: int, features: int) -> None:
    x, gamma, beta, upstream = batch(seed, rows, features)
    leaves = [torch.from_numpy(array).requires_grad_() for array in (x, gamma, beta)]
    theirs = batch_norm(leaves[0], None, None, leaves[1], leaves[2], training=True, eps=1e-3)

    y, _statistics, forward = forward_in_training(x, gamma, beta, epsilon=1e-3)

    np.testing.assert_allclose(y, theirs.detach().numpy(), rtol=0, atol=1e-10)
    gradients = torch.autograd.grad(theirs, leaves, torch.from_numpy(upstream))
    for ours, wanted in zip(backward_in_closed_form(upstream, forward), gradients, strict=True):
        np.testing.assert_allclose(ours, wanted.numpy(), rtol=0, atol=1e-10 * max(1.0, float(wanted.abs().max())))


def test_training_leaves_mean_beta_and_deviation_gamma() -> None:
    x, gamma, beta, _upstream = batch(0, rows=200)

    y, statistics, _forward = forward_in_training(x, gamma, beta, epsilon=0.0)

    np.testing.assert_allclose(y.mean(axis=0), beta, atol=1e-12)
    np.testing.assert_allclose(y.std(axis=0), np.abs(gamma), rtol=1e-12)
    np.testing.assert_allclose(statistics.mean, x.mean(axis=0))
    np.testing.assert_allclose(statistics.variance, x.var(axis=0))


def test_test_mode_is_pytorchs_and_treats_each_row_by_itself() -> None:
    x, gamma, beta, _upstream = batch(0)
    population = Statistics(np.linspace(-2, 9, 5), np.linspace(0.1, 30, 5))

    y = forward_in_test(x, gamma, beta, population, EPSILON)

    value, mean, variance, scale, shift = (torch.from_numpy(array) for array in (x, *population, gamma, beta))
    theirs = batch_norm(value, mean, variance, scale, shift, training=False, eps=EPSILON)
    np.testing.assert_allclose(y, theirs.numpy(), rtol=0, atol=1e-12)
    np.testing.assert_array_equal(y[:1], forward_in_test(x[:1], gamma, beta, population, EPSILON))


def test_running_average_keeps_the_share_that_is_its_momentum() -> None:
    moved = Statistics(np.zeros(1), np.ones(1)).moved_towards(Statistics(np.ones(1), np.full(1, 11.0)), momentum=0.9)

    assert moved.mean == pytest.approx([0.1])
    assert moved.variance == pytest.approx([2.0])
