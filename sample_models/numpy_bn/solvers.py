"""Solvers: how parameters follow their gradients, in place.

Sources: SGD with momentum as B. T. Polyak 1964; RMSProp as G. Hinton's lecture 6e, 2012; Adam as D. P. Kingma,
J. Ba 2015. ε is added to the square root, as PyTorch does.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from sample_models import jobs

Parameters = dict[str, NDArray[Any]]


class Solver(Protocol):
    """Takes a step at a time; remembers what it needs of those before, by the parameters' names."""

    def step(self, parameters: Parameters, gradients: Parameters, learning_rate: float) -> None:
        """Move ``parameters`` in place."""
        ...


@dataclass
class Momentum:
    """Gradient descent whose steps keep a share ``momentum`` of the last one; plain descent with 0."""

    momentum: float = 0.9
    _velocity: Parameters = field(default_factory=dict)

    def step(self, parameters: Parameters, gradients: Parameters, learning_rate: float) -> None:
        """Let v be momentum·v + g, and w be w − rate·v."""
        for name, parameter in parameters.items():
            self._velocity[name] = self.momentum * self._velocity.get(name, 0) + gradients[name]
            _move(parameter, -learning_rate * self._velocity[name])


@dataclass
class RMSProp:
    """Each weight's gradient is divided by the root of its mean square, which decays."""

    decay: float = 0.99
    epsilon: float = 1e-8
    _squares: Parameters = field(default_factory=dict)

    def step(self, parameters: Parameters, gradients: Parameters, learning_rate: float) -> None:
        """Let s be decay·s + (1 − decay)·g², and w be w − rate·g / (√s + ε)."""
        for name, parameter in parameters.items():
            gradient = gradients[name]
            self._squares[name] = self.decay * self._squares.get(name, 0) + (1 - self.decay) * np.square(gradient)
            _move(parameter, -learning_rate * gradient / (np.sqrt(self._squares[name]) + self.epsilon))


@dataclass
class Adam:
    """A decaying mean of the gradient over the root of one of its square, both freed of their start at 0."""

    first_decay: float = 0.9
    second_decay: float = 0.999
    epsilon: float = 1e-8
    _steps: int = 0
    _means: Parameters = field(default_factory=dict)
    _squares: Parameters = field(default_factory=dict)

    def step(self, parameters: Parameters, gradients: Parameters, learning_rate: float) -> None:
        """Let w be w − rate·m̂ / (√ŝ + ε)."""
        self._steps += 1
        first_share, second_share = (1 - decay**self._steps for decay in (self.first_decay, self.second_decay))
        for name, parameter in parameters.items():
            gradient = gradients[name]
            mean = self.first_decay * self._means.get(name, 0) + (1 - self.first_decay) * gradient
            square = self.second_decay * self._squares.get(name, 0) + (1 - self.second_decay) * np.square(gradient)
            self._means[name], self._squares[name] = mean, square
            _move(parameter, -learning_rate * (mean / first_share) / (np.sqrt(square / second_share) + self.epsilon))


SOLVERS: Final[dict[jobs.Solver, Callable[[], Solver]]] = {
    jobs.Solver.ADAM: Adam,
    jobs.Solver.RMSPROP: RMSProp,
    jobs.Solver.GRADIENT_DESCENT: lambda: Momentum(momentum=0),
}
"""A recipe's word, as a new solver."""


def _move(parameter: NDArray[Any], step: NDArray[Any]) -> None:
    parameter += step
