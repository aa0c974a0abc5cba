"""Whatever a module changes while it is recorded and checked, the given one and the generators stay as they were."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch_modules import shaken, verdicts

from bnfold import fold

IMAGE = torch.randn(2, 3, 9, 9, generator=torch.Generator().manual_seed(1))


class Restless(nn.Module):
    """A conv and a batch norm, and state that ``change`` changes in every run."""

    count: torch.Tensor

    def __init__(self, change: Callable[[Any], object]) -> None:
        super().__init__()
        self.conv, self.bn, self.other = nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3), nn.Conv2d(3, 3, 3)
        self.register_buffer("count", torch.zeros(()))
        self.state = torch.zeros(3, 1, 1)
        self.number = 0
        self.changes = [change]
        shaken(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.changes[0](self)
        result: torch.Tensor = self.other(self.bn(self.conv(x)) + self.count * self.state + self.number)
        return result


def renormed(net: Any) -> None:
    """What constraints on weights do, as in EEGNet's layers."""
    net.other.weight.data = torch.renorm(net.other.weight.data, p=2, dim=0, maxnorm=0.1)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(renormed, id="weight.data = other"),
        pytest.param(lambda net: net.other.weight.data.clamp_(-0.01, 0.01), id="weight.data in place"),
        pytest.param(lambda net: net.state.add_(1), id="a tensor that is a plain attribute"),
        pytest.param(lambda net: net.count.add_(1), id="a buffer"),
        pytest.param(lambda net: setattr(net, "number", net.number + 1), id="a number"),
    ],
)
def test_what_a_run_changes_is_not_the_given_modules(change: Callable[[Any], object]) -> None:
    net = Restless(change)
    tensors = {**dict(net.named_parameters()), **dict(net.named_buffers()), "state": net.state}
    before = {name: (tensor.data_ptr(), tensor.detach().clone()) for name, tensor in tensors.items()}
    assert verdicts(fold(net, IMAGE).plan) == {"bn": "conv"}
    assert net.number == 0
    for name, (place, values) in before.items():
        assert tensors[name].data_ptr() == place
        assert torch.equal(tensors[name], values)


@pytest.mark.parametrize(
    "draw",
    [
        pytest.param(random.random, id="Python"),
        pytest.param(np.random.rand, id="NumPy"),
        pytest.param(lambda: torch.rand(()).item(), id="torch"),
        pytest.param(lambda: random.seed(1), id="seeds Python"),
        pytest.param(lambda: np.random.seed(1), id="seeds NumPy"),  # noqa: NPY002 - what old code does
        pytest.param(lambda: torch.manual_seed(1), id="seeds torch"),
    ],
)
def test_a_model_that_draws_random_numbers_folds_and_draws_none_of_the_callers(draw: Callable[[], Any]) -> None:
    def change(net: Any) -> None:
        net.number = float(isinstance(drawn := draw(), float) and drawn)

    random.seed(7)
    np.random.seed(7)  # noqa: NPY002 - as above
    torch.manual_seed(7)
    net = Restless(change)
    expected = [generator() for generator in STATES]
    assert verdicts(fold(net, IMAGE).plan) == {"bn": "conv"}
    assert [generator() for generator in STATES] == expected


STATES: list[Callable[[], object]] = [
    random.getstate,
    lambda: [np.asarray(part).tolist() for part in np.random.get_state()],  # noqa: NPY002 - as above
    lambda: torch.get_rng_state().tolist(),
]


def test_attributes_of_a_parameter_are_there_when_the_module_runs() -> None:
    def change(net: Any) -> None:
        net.number = net.conv.weight.gain

    net: Any = Restless(change)
    net.conv.weight.gain = 3
    assert verdicts(fold(net, IMAGE, skip="*").plan) == {"bn": "excluded-by-user"}
