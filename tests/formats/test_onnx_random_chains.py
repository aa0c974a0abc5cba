"""Random chains of batch norms and of what lets their affines pass, behind a layer or before one: the same network."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
from onnx_graphs import assert_same_network, bn, folded, model, parameters, read_by, weight

SEEDS = range(60)
CHANNELS = 4


class Chain:
    """One value that random operators change, one after the other; ``lines`` and ``tensors`` are the model's."""

    def __init__(self, seed: int) -> None:
        self.choose = random.Random(seed)  # noqa: S311 - no secret
        self.lines = ["r = Relu(x)"]
        self.tensors: dict[str, Any] = {"parts": np.array([1, 3]), "half": np.array(-0.5, np.float32)}
        self.value = self.conv("x") if self.choose.random() < 0.8 else "r"
        kinds = [self.norm, self.norm, self.norm, self.moved, self.moved, self.pooled, self.summed, self.parted]
        for _ in range(self.choose.randint(3, 10)):
            self.choose.choice(kinds)()
        self.value = self.conv(self.value) if self.choose.random() < 0.5 else self.line(f"Sigmoid({self.value})")

    def line(self, text: str) -> str:
        name = f"y{len(self.lines)}"
        self.lines.append(f"{name} = {text}")
        return name

    def conv(self, source: str) -> str:
        name = f"w{len(self.lines)}"
        self.tensors[name] = weight(CHANNELS, CHANNELS, 1, 1, seed=len(self.lines))
        return self.line(f"Conv({source}, {name})")

    def normalised(self, source: str, channels: int = CHANNELS) -> str:
        suffix = str(len(self.lines))
        self.tensors |= parameters(channels, suffix, seed=len(self.lines))
        return self.line(bn(source, suffix))

    def norm(self) -> None:
        self.value = self.normalised(self.value)

    def moved(self) -> None:
        moves = ("Transpose<perm = [0, 1, 3, 2]>({})", "Identity({})", "Neg({})", "Mul({}, half)", "Mean({})")
        self.value = self.line(self.choose.choice(moves).format(self.value))

    def pooled(self) -> None:
        operator = self.choose.choice(["AveragePool", "AveragePool", "MaxPool"])
        self.value = self.line(f"{operator}<kernel_shape = [3, 3], pads = [1, 1, 1, 1]>({self.value})")

    def summed(self) -> None:
        """Another layer is added, perhaps with a batch norm of its own, or the value itself."""
        if self.choose.random() < 0.1:
            self.value = self.line(f"Add({self.value}, {self.value})")
            return
        other = self.conv(self.choose.choice(["x", "r"]))
        if self.choose.random() < 0.4:
            other = self.normalised(other)
        operator = self.choose.choice(["Add", "Sub", "Mean"])
        self.value = self.line(f"{operator}({', '.join(self.choose.sample([self.value, other], 2))})")

    def parted(self) -> None:
        """Two parts of the channels, each perhaps normalised, are joined again."""
        first, second = (f"y{len(self.lines)}{part}" for part in "ab")
        self.lines.append(f"{first}, {second} = Split<axis = 1>({self.value}, parts)")
        parts = [
            self.normalised(part, channels) if self.choose.random() < 0.5 else part
            for part, channels in ((first, 1), (second, 3))
        ]
        self.value = self.line(f"Concat<axis = 1>({', '.join(parts)})")


@pytest.mark.parametrize("seed", SEEDS)
def test_a_random_chain_stays_the_same_network(seed: int) -> None:
    chain = Chain(seed)
    body = " ".join(chain.lines)
    x = f"float[2,{CHANNELS},5,5] x"
    original = model(body, read_by(body, chain.tensors), x=x, y=f"float[] {chain.value}")
    result, _ = folded(original)
    assert_same_network(original, result, 1e-4)
