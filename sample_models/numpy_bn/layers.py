"""The layers of a classifier: each knows its forward pass and its gradients, and keeps what the latter need.

Values are ``(N, features)``. A layer's ``parameters`` are what a solver moves, in place; ``gradients`` has the same
keys once ``backward`` has run. Names are those of PyTorch, so that a state_dict is a matter of writing them down.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import DTypeLike, NDArray

from sample_models.numpy_bn.batch_norm import (
    Forward,
    Statistics,
    backward_in_closed_form,
    forward_in_test,
    forward_in_training,
)

Array = NDArray[Any]


class Layer(Protocol):
    """One step of a network."""

    parameters: dict[str, Array]
    gradients: dict[str, Array]

    def forward(self, x: Array, *, training: bool) -> Array:
        """The layer's output; in training what ``backward`` needs is kept."""
        ...

    def backward(self, upstream: Array) -> Array:
        """The loss's gradient for the last input, given the one for its output; sets ``gradients``."""
        ...


class Affine:
    """x·W + b, with ``weight`` (inputs, outputs) from N(0, scale²) and ``bias`` zero."""

    def __init__(
        self, shape: tuple[int, int], scale: float, random: np.random.Generator, dtype: DTypeLike = np.float64
    ) -> None:
        weight = (scale * random.standard_normal(shape)).astype(dtype)
        self.parameters = {"weight": weight, "bias": np.zeros(shape[1], dtype)}
        self.gradients: dict[str, Array] = {}
        self._x = np.zeros((0, shape[0]), dtype)

    def forward(self, x: Array, *, training: bool) -> Array:
        """``(N, outputs)``."""
        if training:
            self._x = x
        y: Array = x @ self.parameters["weight"] + self.parameters["bias"]
        return y

    def backward(self, upstream: Array) -> Array:
        """``(N, inputs)``."""
        self.gradients = {"weight": self._x.T @ upstream, "bias": upstream.sum(axis=0)}
        x: Array = upstream @ self.parameters["weight"].T
        return x


class BatchNorm:
    """Batch norm over ``features``, with running averages: ``momentum`` is the share that a batch leaves of them."""

    def __init__(self, features: int, epsilon: float, momentum: float, dtype: DTypeLike = np.float64) -> None:
        self.parameters = {"weight": np.ones(features, dtype), "bias": np.zeros(features, dtype)}
        self.gradients: dict[str, Array] = {}
        self.population = Statistics(np.zeros(features, dtype), np.ones(features, dtype))
        self.epsilon = epsilon
        self.momentum = momentum
        self._batches = 0
        self._forward: Forward | None = None

    def forward(self, x: Array, *, training: bool) -> Array:
        """``(N, features)``; in training the batch moves the running averages."""
        gamma, beta = self.parameters["weight"], self.parameters["bias"]
        if not training:
            return forward_in_test(x, gamma, beta, self.population, self.epsilon)
        y, batch, self._forward = forward_in_training(x, gamma, beta, self.epsilon)
        self.population = self.population.moved_towards(batch, self.momentum)
        self._batches += 1
        return y

    def backward(self, upstream: Array) -> Array:
        """``(N, features)``."""
        if self._forward is None:
            raise RuntimeError("backward before a forward pass in training")
        x, gamma, beta = backward_in_closed_form(upstream, self._forward)
        self.gradients = {"weight": gamma, "bias": beta}
        return x

    def running(self) -> dict[str, Array]:
        """What a state_dict says of the running averages."""
        mean, variance = self.population
        return {"running_mean": mean, "running_var": variance, "num_batches_tracked": np.array(self._batches)}

    def resume(self, running: dict[str, Array]) -> None:
        """Go on from what ``running`` once returned."""
        dtype = self.population.mean.dtype
        self.population = Statistics(running["running_mean"].astype(dtype), running["running_var"].astype(dtype))
        self._batches = int(running["num_batches_tracked"])


class ReLU:
    """max(x, 0)."""

    def __init__(self) -> None:
        self.parameters: dict[str, Array] = {}
        self.gradients: dict[str, Array] = {}
        self._positive: Array = np.zeros(0, bool)

    def forward(self, x: Array, *, training: bool) -> Array:
        """As many features as there were."""
        if training:
            self._positive = x > 0
        return np.maximum(x, 0)

    def backward(self, upstream: Array) -> Array:
        """``upstream`` where the input was positive, 0 elsewhere."""
        x: Array = upstream * self._positive
        return x


class Dropout:
    """In training a share ``rate`` of the values is 0 and the others grow to keep the mean; in test mode nothing."""

    def __init__(self, rate: float, random: np.random.Generator) -> None:
        self.parameters: dict[str, Array] = {}
        self.gradients: dict[str, Array] = {}
        self.rate = rate
        self.factors: Array = np.ones(())
        self._random = random

    def forward(self, x: Array, *, training: bool) -> Array:
        """As many features as there were."""
        if not training:
            return x
        kept = self._random.random(x.shape, np.float32) >= self.rate
        self.factors = kept.astype(x.dtype) / x.dtype.type(1 - self.rate)
        y: Array = x * self.factors
        return y

    def backward(self, upstream: Array) -> Array:
        """``upstream`` where the value was kept, grown alike."""
        x: Array = upstream * self.factors
        return x


def softmax_loss(logits: Array, labels: NDArray[np.int64]) -> tuple[float, Array]:
    """The mean cross-entropy of ``logits`` ``(N, classes)``, and its gradient for them."""
    shifted = logits - logits.max(axis=1, keepdims=True)  # the largest exponential is 1: none overflows
    log_sums = np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    log_shares = shifted - log_sums
    rows = np.arange(len(labels))
    gradient = np.exp(log_shares)
    gradient[rows, labels] -= 1
    return -float(log_shares[rows, labels].mean()), gradient / len(labels)
