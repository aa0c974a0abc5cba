"""Batch norm as functions of arrays: forward in training and in test mode, and its gradients twice over.

Source: S. Ioffe, C. Szegedy, "Batch Normalization", 2015. For a batch x of shape (N, C), per channel:

    μ = mean(x)    σ² = mean((x − μ)²)    x̂ = (x − μ) / √(σ² + ε)    y = γ·x̂ + β

In test mode μ and σ² are running averages over the batches of training, and y is an affine map of x.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


class Statistics(NamedTuple):
    """Mean and variance of each channel, both ``(C,)``. The variance is the biased one, as in the source."""

    mean: Array
    variance: Array

    def moved_towards(self, batch: Statistics, momentum: float) -> Statistics:
        """The running average once a batch has been seen; ``momentum`` is the share that is kept."""
        return Statistics(
            momentum * self.mean + (1 - momentum) * batch.mean,
            momentum * self.variance + (1 - momentum) * batch.variance,
        )


@dataclass(frozen=True, eq=False)
class Forward:
    """What the gradients need of a forward pass: x − μ ``(N, C)``, √(σ² + ε) ``(C,)``, γ ``(C,)``."""

    centred: Array
    deviation: Array
    gamma: Array

    @property
    def normalised(self) -> Array:
        """x̂, ``(N, C)``."""
        quotient: Array = self.centred / self.deviation
        return quotient


class Gradients(NamedTuple):
    """The loss's gradients: for x ``(N, C)``, for γ and β ``(C,)``."""

    x: Array
    gamma: Array
    beta: Array


def forward_in_training(x: Array, gamma: Array, beta: Array, epsilon: float) -> tuple[Array, Statistics, Forward]:
    """The output ``(N, C)`` by the batch's own statistics, those statistics, and what the gradients will need."""
    mean = x.mean(axis=0)
    centred = x - mean
    variance = np.square(centred).mean(axis=0)
    forward = Forward(centred, np.sqrt(variance + epsilon), gamma)
    return gamma * forward.normalised + beta, Statistics(mean, variance), forward


def forward_in_test(x: Array, gamma: Array, beta: Array, population: Statistics, epsilon: float) -> Array:
    """The output ``(N, C)`` by the population's statistics: each row by itself, whatever else is in the batch."""
    y: Array = gamma * (x - population.mean) / np.sqrt(population.variance + epsilon) + beta
    return y


def backward_by_graph(upstream: Array, forward: Forward) -> Gradients:
    """The gradients, one node of the computation after the other, from the end to the beginning.

    ``upstream`` is the loss's gradient for y, ``(N, C)``. Where a value is used twice its gradients add up: centred
    in x̂ and in σ², x in centred and in μ.
    """
    count = len(upstream)
    normalised = upstream * forward.gamma  # y = γ·x̂ + β
    inverse = (normalised * forward.centred).sum(axis=0)  # x̂ = centred · 1/deviation
    deviation = -inverse / np.square(forward.deviation)
    variance = deviation / (2 * forward.deviation)  # deviation = √(σ² + ε)
    centred = normalised / forward.deviation + 2 * forward.centred * variance / count  # σ² = mean(centred²)
    mean = -centred.sum(axis=0)  # centred = x − μ
    return Gradients(
        x=centred + mean / count,  # μ = mean(x)
        gamma=(upstream * forward.normalised).sum(axis=0),
        beta=upstream.sum(axis=0),
    )


def backward_in_closed_form(upstream: Array, forward: Forward) -> Gradients:
    """The same gradients, the graph's chain of rules written as one expression.

    dx = γ/√(σ² + ε) · (dy − mean(dy) − x̂·mean(dy·x̂)): what is left of dy once its mean and its share along x̂ are
    taken out, for neither can change y.
    """
    count, normalised = len(upstream), forward.normalised
    gamma, beta = (upstream * normalised).sum(axis=0), upstream.sum(axis=0)
    x: Array = forward.gamma / forward.deviation * (upstream - (beta + normalised * gamma) / count)
    return Gradients(x, gamma, beta)
