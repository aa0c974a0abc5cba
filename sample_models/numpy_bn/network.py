"""Fully connected classifiers as a row of layers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from sample_models.numpy_bn.layers import Affine, BatchNorm, Dropout, Layer, ReLU, softmax_loss

Array = NDArray[Any]

INPUTS = 28 * 28
CLASSES = 10


@dataclass(frozen=True)
class Shape:
    """Hidden layers of these sizes, each: affine → BN → ReLU → dropout. Then the logits.

    ``epsilon`` is the BNs', None for a network without; ``momentum`` the share of the running averages that a batch
    leaves; ``dropout`` the share of values dropped, 0 for none.
    """

    hidden: tuple[int, ...]
    epsilon: float | None
    momentum: float = 0.9
    dropout: float = 0.0


class Network:
    """A row of named layers."""

    def __init__(self, layers: dict[str, Layer]) -> None:
        self.layers = layers

    def forward(self, x: Array, *, training: bool = False) -> Array:
        """Logits ``(N, classes)`` of ``x`` ``(N, inputs)``."""
        for layer in self.layers.values():
            x = layer.forward(x, training=training)
        return x

    def loss(self, x: Array, labels: NDArray[np.int64]) -> float:
        """The mean cross-entropy in training mode; sets every layer's gradients."""
        loss, upstream = softmax_loss(self.forward(x, training=True), labels)
        for layer in reversed(self.layers.values()):
            upstream = layer.backward(upstream)
        return loss

    @property
    def parameters(self) -> dict[str, Array]:
        """What a solver moves, by ``LAYER.PARAMETER``."""
        return {f"{name}.{key}": array for name, part in self.layers.items() for key, array in part.parameters.items()}

    @property
    def gradients(self) -> dict[str, Array]:
        """The loss's gradients, by the names of ``parameters``."""
        return {f"{name}.{key}": array for name, part in self.layers.items() for key, array in part.gradients.items()}

    def state(self) -> dict[str, Array]:
        """What PyTorch calls a state_dict: its names, its order, and its layout of weights (outputs, inputs)."""
        state: dict[str, Array] = {}
        for name, layer in self.layers.items():
            weights = {key: array.T if array.ndim > 1 else array for key, array in layer.parameters.items()}
            running = layer.running() if isinstance(layer, BatchNorm) else {}
            state |= {f"{name}.{key}": np.ascontiguousarray(array) for key, array in (weights | running).items()}
        return state

    def load(self, state: Mapping[str, Array]) -> None:
        """Take over what ``state`` has given. Raises KeyError where something is missing."""
        for name, layer in self.layers.items():
            for key, array in layer.parameters.items():
                layer.parameters[key] = state[f"{name}.{key}"].T.astype(array.dtype)
            if isinstance(layer, BatchNorm):
                layer.resume({key: state[f"{name}.{key}"] for key in layer.running()})


def fully_connected(
    shape: Shape, weight_scale: Callable[[int], float], seed: int, dtype: DTypeLike = np.float64
) -> Network:
    """A network of this shape, its weights from N(0, ``weight_scale(inputs)²``), its biases 0."""
    random = np.random.default_rng(seed)
    layers: dict[str, Layer] = {}
    inputs = INPUTS
    for number, size in enumerate(shape.hidden, start=1):
        layers[f"dense{number}"] = Affine((inputs, size), weight_scale(inputs), random, dtype)
        if shape.epsilon is not None:
            layers[f"bn{number}"] = BatchNorm(size, shape.epsilon, shape.momentum, dtype)
        layers[f"relu{number}"] = ReLU()
        if shape.dropout:
            layers[f"dropout{number}"] = Dropout(shape.dropout, random)
        inputs = size
    layers["logits"] = Affine((inputs, CLASSES), weight_scale(inputs), random, dtype)
    return Network(layers)
