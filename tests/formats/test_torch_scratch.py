"""Whatever a module changes while it is recorded and checked, the given one and the generators stay as they were."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch_modules import shaken, verdicts

from bnfold import fold
from bnfold.errors import InputError

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


class Caching(Restless):
    """A network that keeps what it has computed, with gradients where it runs with them, as LeViT its biases."""

    def __init__(self) -> None:
        super().__init__(lambda _: None)
        self.kept: dict[Any, Any] = {}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        bias = self.kept.setdefault(x.device, [self.other.weight.sum() * 2])
        result: torch.Tensor = super().forward(x) + bias[0]
        return result


def test_a_module_that_has_run_with_gradients_and_keeps_what_it_computed_is_copied() -> None:
    net = Caching()
    expected = net(IMAGE)
    (kept,) = net.kept[IMAGE.device]
    result = fold(net, IMAGE)
    assert verdicts(result.plan) == {"bn": "conv"}
    assert net.kept[IMAGE.device] == [kept]
    assert kept.requires_grad
    assert torch.equal(result.model.kept[IMAGE.device][0], kept)
    assert torch.allclose(result.model(IMAGE), expected, atol=1e-4)


class Forgetful(nn.Module):
    """A network whose copies are in training mode, where it takes another path, as torchvision's extractors do."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn, self.still = nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3), nn.Dropout()
        self.path = "training"

    def train(self, mode: bool = True) -> Forgetful:  # noqa: FBT001, FBT002 - torch's own
        self.path = "training" if mode else "inference"
        return super().train(mode)

    def __deepcopy__(self, memo: dict[int, object]) -> Forgetful:
        twin = memo[id(self)] = type(self).__new__(type(self))
        vars(twin).update(copy.deepcopy(vars(self), memo))
        return twin.train()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.still(self.bn(self.conv(x)))
        return result if self.path == "inference" else result + 1


@pytest.mark.parametrize("outside", [nn.Sequential, lambda net: net], ids=["within", "itself"])
def test_a_module_whose_own_way_of_copying_forgets_its_mode_is_folded_in_its_mode(
    outside: Callable[[nn.Module], nn.Module],
) -> None:
    net = outside(shaken(Forgetful())).eval()
    part = next(part for part in net.modules() if isinstance(part, nn.Dropout))
    part.p = 0.0
    result = fold(net, IMAGE)
    assert list(verdicts(result.plan).values()) == [next(name for name, _ in net.named_modules() if "conv" in name)]
    assert not any(part.training for part in result.model.modules())
    assert torch.allclose(result.model(IMAGE), net(IMAGE), atol=1e-4)


class Partial(Forgetful):
    """A network whose copies have no dropout."""

    def __deepcopy__(self, memo: dict[int, object]) -> Forgetful:
        twin = super().__deepcopy__(memo)
        del twin.still
        return twin


def test_a_module_whose_copy_lacks_a_part_is_refused_in_words() -> None:
    with pytest.raises(InputError, match="cannot be copied: its copy has no 'still'"):
        fold(shaken(Partial()).eval(), IMAGE)


def test_attributes_of_a_parameter_stay_with_it() -> None:
    def change(net: Any) -> None:
        net.number = net.conv.weight.gain

    net: Any = Restless(change)
    net.conv.weight.gain = 3
    result = fold(net, IMAGE)
    assert verdicts(result.plan) == {"bn": "conv"}
    assert result.model.conv.weight.gain == 3


class Again(nn.Module):
    """Two batch norms behind a conv; which of them runs, ``path`` says."""

    def __init__(self, path: Callable[[Any], nn.Module]) -> None:
        super().__init__()
        self.conv, self.first, self.second = nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3), nn.BatchNorm2d(3)
        self.register_buffer("count", torch.zeros(()))
        self.runs = 0
        self.last: torch.Tensor | None = None
        self.seen: list[int] = []
        self.numbers = {"of a dict": [0], "of NumPy": np.zeros(1, int)}
        self.counter = SimpleNamespace(runs=0)
        self.path = [path]
        shaken(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.path[0](self)(self.conv(x))
        self.last = result
        return result


def by_number(net: Any) -> Any:
    net.runs += 1
    return net.first if net.runs == 1 else net.second


def by_buffer(net: Any) -> Any:
    net.count += 1
    return net.first if net.count == 1 else net.second


def by_list(net: Any) -> Any:
    net.seen.append(1)
    return net.first if len(net.seen) == 1 else net.second


def by_number_in(name: str) -> Callable[[Any], nn.Module]:
    def path(net: Any) -> Any:
        net.numbers[name][0] += 1
        return net.first if net.numbers[name][0] == 1 else net.second

    return path


def by_object(net: Any) -> Any:
    net.counter.runs += 1
    return net.first if net.counter.runs == 1 else net.second


def swapped(net: Any) -> Any:
    net.first, net.second = net.second, net.first
    return net.first


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(by_number, id="a number"),
        pytest.param(by_buffer, id="a buffer"),
        pytest.param(by_list, id="a list"),
        pytest.param(by_number_in("of a dict"), id="a number in a list in a dict"),
        pytest.param(by_number_in("of NumPy"), id="a number in an array"),
        pytest.param(by_object, id="a number that an object holds"),
        pytest.param(swapped, id="parts change places"),
        pytest.param(lambda net: net.first if net.last is None else nn.Identity(), id="what the last run gave"),
    ],
)
def test_a_path_that_changes_from_run_to_run_is_an_error_that_says_so(path: Callable[[Any], nn.Module]) -> None:
    net = Again(path)
    with pytest.raises(InputError, match="when it runs again"):
        fold(net, IMAGE)
    assert not fold(net, IMAGE, skip="*").plan.folds


class Adding(nn.Module):
    """A conv, a batch norm, and between them a summand that ``move`` moves after each run."""

    def __init__(self, move: Callable[[Any], object]) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3)
        self.register_buffer("summand", torch.ones(3, 1, 1))
        self.number = 1.0
        self.move = [move]
        shaken(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.bn(self.conv(x) + self.number + self.summand)
        self.move[0](self)
        return result


@pytest.mark.parametrize(
    "move",
    [
        pytest.param(lambda net: setattr(net, "number", net.number + 1), id="a number"),
        pytest.param(lambda net: setattr(net, "summand", net.summand + 1), id="another buffer"),
    ],
)
def test_a_number_that_moves_from_run_to_run_is_no_constant(move: Callable[[Any], object]) -> None:
    net = Adding(move)
    with pytest.raises(InputError, match="when it runs again"):
        fold(net, IMAGE)


@pytest.mark.parametrize("path", ["summand", "conv.weight", "conv.bias"])
def test_what_gets_other_values_behind_torchs_back_is_no_constant(path: str) -> None:
    def move(net: Any) -> None:
        tensors = {**dict(net.named_parameters()), **dict(net.named_buffers())}
        tensors[path].data = torch.ones(tensors[path].shape)

    net = Adding(move)
    (keep,) = fold(net, IMAGE).plan.keeps
    assert keep.reason.slug == ("no-linear-layer" if path == "summand" else "weight-not-constant")


def test_state_that_does_not_change_the_path_is_no_hindrance() -> None:
    net = Again(lambda net: (net.count.add_(1), net.seen.append(1), net.first)[-1])
    result = fold(net, IMAGE)
    assert verdicts(result.plan) == {"first": "conv"}
    for _ in range(3):
        expected, actual = net(IMAGE), result.model(IMAGE)
    assert torch.allclose(actual, expected, rtol=1e-4, atol=1e-4)
