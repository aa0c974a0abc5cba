"""Random sums of branches: whatever becomes one layer computes the same, and folding again finds nothing more."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from onnx_graphs import assert_same_network, bn, folded, model, parameters, weight

from bnfold import fold

SEEDS = range(90)


class Branches:
    """A sum, of sums, of random branches of one value or its copy; ``lines`` and ``tensors`` are the model's."""

    def __init__(self, seed: int) -> None:
        self.choose = random.Random(seed)  # noqa: S311 - no secret
        self.channels = self.choose.choice([2, 4])
        self.stride = self.choose.choice([1, 1, 1, 2])
        self.lines = ["r = Relu(x) i = Identity(r) q = Sigmoid(r)"]
        self.tensors: dict[str, Any] = {}
        kinds: list[Callable[[str, str], str]] = [self.conv, self.conv, self.conv, self.mean]
        kinds += [self.norm, self.norm, self.itself] if self.stride == 1 else []
        addends = []
        for number in range(self.choose.randint(2, 6)):
            source = self.choose.choice(["r", "r", "r", "i", "q"])
            addends.append(self.choose.choice(kinds)(f"a{number}", source))
            if self.choose.random() < 0.5:
                addends[-1] = self.norm(f"n{number}", addends[-1])
            if self.choose.random() < 0.2:
                tail = self.mean if self.stride == 1 and self.choose.random() < 0.5 else self.copy
                addends[-1] = tail(f"t{number}", addends[-1])
        self.result = self.total(addends)
        if self.choose.random() < 0.2:
            self.lines.append(f"p = GlobalAveragePool({self.result})")
            self.result = "p"
        if self.choose.random() < 0.3:
            self.result = self.norm("e", self.result)

    def conv(self, name: str, source: str) -> str:
        kernel = [self.choose.choice([1, 1, 2, 3, 3, 5]) for _ in range(2)]
        dilations = [self.choose.choice([1, 1, 1, 2]) for _ in range(2)]
        groups = self.choose.choice([1, 1, 1, 2, self.channels])
        pads = self.pads(kernel, dilations)
        if dilations == [1, 1] and self.choose.random() < 0.2:
            pads = f'auto_pad = "{self.choose.choice(["SAME_UPPER", "SAME_LOWER"])}"'
        self.tensors[f"w{name}"] = weight(self.channels, self.channels // groups, *kernel, seed=len(self.lines))
        self.lines.append(
            f"{name} = Conv<{pads}, dilations = {dilations}, strides = {[self.stride] * 2}, group = {groups}>"
            f"({source}, w{name})"
        )
        return name

    def mean(self, name: str, source: str) -> str:
        kernel = [self.choose.choice([1, 2, 3]) for _ in range(2)]
        self.lines.append(
            f"{name} = AveragePool<kernel_shape = {kernel}, {self.pads(kernel, [1, 1])}, strides = "
            f"{[self.stride] * 2}, count_include_pad = {self.choose.choice([0, 1, 1])}>({source})"
        )
        return name

    def pads(self, kernel: list[int], dilations: list[int]) -> str:
        """Zeros that keep the size, not always as many before as after."""
        totals = [dilation * (taps - 1) for taps, dilation in zip(kernel, dilations, strict=True)]
        before = [self.choose.choice([total // 2, (total + 1) // 2]) for total in totals]
        return f"pads = {[*before, *(total - first for total, first in zip(totals, before, strict=True))]}"

    def norm(self, name: str, source: str) -> str:
        self.tensors |= parameters(self.channels, name, seed=len(self.lines))
        if self.choose.random() < 0.3:
            self.tensors |= {item + name: np.zeros(self.channels, np.float32) for item in "bm"}
        self.lines.append(f"{name} = {bn(source, name)}")
        return name

    def copy(self, name: str, source: str) -> str:
        self.lines.append(f"{name} = {self.choose.choice(['Identity', 'Dropout'])}({source})")
        return name

    def itself(self, name: str, source: str) -> str:
        del name
        return source

    def total(self, addends: list[str]) -> str:
        while len(addends) > 1:
            taken = [
                addends.pop(self.choose.randrange(len(addends)))
                for _ in range(self.choose.choice([2, min(len(addends), 3)]))
            ]
            operator = "Sum" if len(taken) == 3 else self.choose.choice(["Add", "Add", "Add", "Sub", "Mean"])
            addends.append(f"s{len(self.lines)}")
            self.lines.append(f"{addends[-1]} = {operator}({', '.join(taken)})")
        return addends[0]


@pytest.mark.parametrize("seed", SEEDS)
def test_a_random_sum_stays_the_same_network(seed: int) -> None:
    branches = Branches(seed)
    size = branches.choose.choice([5, 6, 7, 8])
    x = f"float[2,{branches.channels},{size},{size}] x"
    original = model(" ".join(branches.lines), branches.tensors, x=x, y=f"float[] {branches.result}")
    everywhere = branches.choose.random() < 0.3
    result, _ = folded(original, merge_parallel=everywhere)
    assert_same_network(original, result, 3e-5)
    assert fold(result, merge_parallel=everywhere).model == result
