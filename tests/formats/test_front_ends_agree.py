"""One network, two front ends: the same verdicts on a module and on what torch exports of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from onnx import ModelProto
from structure_exports import SEED, exported, tally
from structures import STRUCTURES, Structure
from torch import nn
from torch.nn import functional
from torch_modules import judged_fold, shaken

from bnfold import fold
from bnfold.core.verdict import Fold, Plan

BATCH = 3


class Residual(nn.Module):
    """The normalised value and the raw one are added."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv(x)
        return torch.relu(self.bn(y)) + y  # type: ignore[no-any-return]


class CalledTwice(nn.Module):
    """One convolution, two batch norms."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3)
        self.first, self.second = nn.BatchNorm2d(3), nn.BatchNorm2d(3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(self.conv(torch.relu(self.first(self.conv(x)))))  # type: ignore[no-any-return]


class OneForTwo(nn.Module):
    """Two convolutions, one batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.bn = nn.Conv2d(3, 3, 3), nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.bn(self.a(x))) + torch.relu(self.bn(self.b(x)))


class TwoOutputs(nn.Module):
    """The raw value is an output too."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv(x)
        return torch.cat([self.bn(y).flatten(1), torch.sigmoid(y).flatten(1)], 1)


class Frozen(nn.Module):
    """Buffers, and arithmetic instead of the operator."""

    def __init__(self, features: int) -> None:
        super().__init__()
        for name in ("weight", "bias", "running_mean", "running_var"):
            self.register_buffer(name, torch.rand(features) + 0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weight, bias, mean, variance = (buffer.view(1, -1, 1, 1) for buffer in self.buffers())
        scale = weight * (variance + 1e-5).rsqrt()
        return x * scale + (bias - mean * scale)


class ByHand(nn.Module):
    """F.conv2d and F.batch_norm on parameters of the module's own."""

    mean: torch.Tensor
    variance: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.kernel = nn.Parameter(torch.randn(4, 3, 3, 3, generator=generator))
        bias, scale, shift, mean, variance = torch.rand(5, 4, generator=generator) + 0.5
        self.bias, self.scale, self.shift = nn.Parameter(bias), nn.Parameter(scale), nn.Parameter(shift)
        self.register_buffer("mean", mean)
        self.register_buffer("variance", variance)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = functional.conv2d(x, self.kernel, self.bias)
        return functional.batch_norm(y, self.mean, self.variance, self.scale, self.shift)


class Between(nn.Module):
    """A number is multiplied, or added, between the convolution and the batch norm."""

    def __init__(self, factor: float, summand: float) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        self.factor, self.summand = factor, summand

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv(x)
        y = y * self.factor if self.factor != 1 else y + self.summand
        return self.bn(y)  # type: ignore[no-any-return]


class Joined(nn.Module):
    """Two convolutions of one size, joined by a function, then a batch norm."""

    def __init__(self, join: Callable[..., torch.Tensor], channels: int = 4) -> None:
        super().__init__()
        self.a, self.b, self.bn = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3), nn.BatchNorm2d(channels)
        self.join = join

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.bn(self.join(self.a(x), self.b(x)))  # type: ignore[no-any-return]


class Beside(nn.Module):
    """A convolution, and a batch norm beside it with a mean on either side."""

    def __init__(self, before: nn.Module, behind: nn.Module, **options: Any) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 3, 3, **options), nn.BatchNorm2d(3)
        self.before, self.behind = before, behind

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x) + self.behind(self.bn(self.before(x)))  # type: ignore[no-any-return]


def sequence(*parts: nn.Module) -> Callable[[], nn.Module]:
    """Builds these parts one after the other."""
    return lambda: nn.Sequential(*parts)


def conv_bn(*rest: nn.Module, bn: nn.Module | None = None, **options: Any) -> Callable[[], nn.Module]:
    options = {"in_channels": 3, "out_channels": 6, "kernel_size": 3} | options
    return sequence(nn.Conv2d(**options), bn or nn.BatchNorm2d(options["out_channels"]), *rest)


IMAGE = (3, 8, 8)
Verdicts = list[str]
"""In the order in which the batch norms run: the rule that folds, or the slug of the reason."""

SAME: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], Verdicts]] = {
    "conv, bn, relu": (conv_bn(nn.ReLU()), IMAGE, ["absorb-above"]),
    "a conv without bias": (conv_bn(bias=False), IMAGE, ["absorb-above"]),
    "a conv in groups": (conv_bn(groups=3, padding=1), IMAGE, ["absorb-above"]),
    "a depthwise conv": (conv_bn(out_channels=3, groups=3, stride=2), IMAGE, ["absorb-above"]),
    "no γ and β": (conv_bn(bn=nn.BatchNorm2d(6, affine=False)), IMAGE, ["absorb-above"]),
    "a large ε": (conv_bn(bn=nn.BatchNorm2d(6, eps=0.5)), IMAGE, ["absorb-above"]),
    "a transposed conv": (
        sequence(nn.ConvTranspose2d(3, 6, 3, stride=2), nn.BatchNorm2d(6)),
        IMAGE,
        ["absorb-above"],
    ),
    "a transposed conv in groups": (
        sequence(nn.ConvTranspose2d(3, 6, 3, groups=3, bias=False), nn.BatchNorm2d(6)),
        IMAGE,
        ["absorb-above"],
    ),
    "1-D": (sequence(nn.Conv1d(3, 4, 3), nn.BatchNorm1d(4)), (3, 9), ["absorb-above"]),
    "3-D": (sequence(nn.Conv3d(3, 4, 2), nn.BatchNorm3d(4)), (3, 4, 4, 4), ["absorb-above"]),
    "linear, bn": (sequence(nn.Linear(6, 5), nn.BatchNorm1d(5)), (6,), ["absorb-above"]),
    "linear without bias": (sequence(nn.Linear(6, 5, bias=False), nn.BatchNorm1d(5)), (6,), ["absorb-above"]),
    "linear, dropout, bn": (
        sequence(nn.Linear(6, 5), nn.Dropout(0.5), nn.Identity(), nn.BatchNorm1d(5)),
        (6,),
        ["absorb-above"],
    ),
    "two bns in a row": (conv_bn(nn.BatchNorm2d(6)), IMAGE, ["absorb-above", "absorb-above"]),
    "two bns behind a relu": (
        sequence(nn.ReLU(), nn.BatchNorm2d(3), nn.BatchNorm2d(3), nn.Sigmoid()),
        IMAGE,
        ["no-linear-layer", "merge"],
    ),
    "conv, relu, bn": (sequence(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.BatchNorm2d(6)), IMAGE, ["no-linear-layer"]),
    "residual with fan-out": (Residual, IMAGE, ["fan-out"]),
    "the raw value is read too": (TwoOutputs, IMAGE, ["fan-out"]),
    "bn first, then a relu": (sequence(nn.BatchNorm2d(3), nn.ReLU()), IMAGE, ["no-linear-layer"]),
    "bn first, then a conv": (sequence(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3)), IMAGE, ["absorb-below"]),
    "bn first, then a padded conv": (
        sequence(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3, padding=1)),
        IMAGE,
        ["padded-input"],
    ),
    "a frozen batch norm": (sequence(nn.Conv2d(3, 4, 3), Frozen(4), nn.ReLU()), IMAGE, ["absorb-above"]),
    "functional calls": (ByHand, IMAGE, ["absorb-above"]),
    "a factor between": (lambda: Between(0.5, 0), IMAGE, ["absorb-above"]),
    "a summand between": (lambda: Between(1, 0.5), IMAGE, ["absorb-above"]),
    "3-D linear, channels last": (
        sequence(nn.Linear(5, 5), nn.BatchNorm1d(5)),
        (5, 5),
        ["channel-mismatch"],
    ),
    "a mean of two": (lambda: Joined(lambda a, b: torch.stack([a, b]).mean(0)), IMAGE, ["absorb-above"]),
    "a difference": (lambda: Joined(lambda a, b: a - b), IMAGE, ["absorb-above"]),
    "a mean over the channels": (
        lambda: Joined(lambda a, b: (a + b).mean(1, keepdim=True), channels=1),
        IMAGE,
        ["absorb-above"],
    ),
    "a mean over positions": (
        lambda: Joined(lambda a, b: a.mean((2, 3), keepdim=True) + functional.adaptive_avg_pool2d(b, 1)),
        IMAGE,
        ["absorb-above"],
    ),
    "adaptive means of windows": (
        lambda: Joined(lambda a, b: functional.adaptive_avg_pool2d(a + b, 2)),
        IMAGE,
        ["absorb-above"],
    ),
    "means of windows": (
        lambda: Joined(
            lambda a, b: functional.avg_pool2d(a, 2) + functional.avg_pool2d(b, 3, 2, 1, count_include_pad=False)
        ),
        IMAGE,
        ["absorb-above"],
    ),
    "a mean that counts its padding": (
        lambda: Joined(lambda a, b: functional.avg_pool2d(a + b, 3, padding=1)),
        IMAGE,
        ["padded-input"],
    ),
    "a mean before a bn beside a conv": (
        lambda: Beside(nn.AvgPool2d(3, 1, 1), nn.Identity(), padding=1),
        IMAGE,
        ["parallel-layers"],
    ),
    "a mean behind a bn beside a conv": (
        lambda: Beside(nn.Identity(), nn.AvgPool2d(3, 1)),
        IMAGE,
        ["parallel-layers"],
    ),
    "pool between": (
        sequence(nn.Conv2d(3, 6, 3), nn.AvgPool2d(2), nn.Flatten(), nn.BatchNorm1d(54)),
        IMAGE,
        ["layout-moves-channels"],
    ),
}
"""By structure: the module, one input of it, and the verdicts that both front ends give."""

DIFFERENT: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], Verdicts, Verdicts]] = {
    # A module that runs twice is one module: nothing can be put in the place of one of its runs. The exporter writes
    # it out as two operators, each with a tensor of its own after the fold.
    "one conv, called twice": (
        CalledTwice,
        IMAGE,
        ["runs-more-than-once", "runs-more-than-once"],
        ["absorb-above", "absorb-above"],
    ),
    # A number stands in the module's code, which stays: a summand has to be undone before it, where a large one would
    # cancel most of a value's bits. A file's constants can be changed.
    "a large summand between": (lambda: Between(1, 100), IMAGE, ["no-linear-layer"], ["absorb-above"]),
    # How often a sum adds up a shift is the size of what it sums over. A run shows one; a file says which are fixed.
    "a sum over an axis": (
        lambda: Joined(lambda a, b: torch.stack([a, b], -1).sum(-1)),
        IMAGE,
        ["no-linear-layer"],
        ["absorb-above"],
    ),
    "one bn, called twice": (OneForTwo, IMAGE, ["runs-more-than-once"], ["absorb-above", "absorb-above"]),
}
"""Where they differ, and why: the verdicts on the module, and on the model."""


def verdicts(plan: Plan) -> Verdicts:
    return [verdict.rule if isinstance(verdict, Fold) else verdict.reason.slug for verdict in plan]


def both(name: str, build: Callable[[], nn.Module], shape: tuple[int, ...]) -> tuple[Plan, Plan]:
    """The plan for the module, whose fold is checked on the way, and the plan for the exported model."""
    torch.manual_seed(SEED)
    module = shaken(build(), seed=SEED)
    model: ModelProto = exported(Structure(name, build, shape), "dynamo")
    return judged_fold(module, torch.randn(BATCH, *shape)).plan, fold(model).plan


@pytest.mark.parametrize("name", list(SAME))
def test_the_same_verdicts(name: str) -> None:
    build, shape, expected = SAME[name]
    assert [verdicts(plan) for plan in both(name, build, shape)] == [expected, expected]


@pytest.mark.parametrize("name", DIFFERENT)
def test_other_verdicts_for_a_reason(name: str) -> None:
    build, shape, of_module, of_model = DIFFERENT[name]
    assert [verdicts(plan) for plan in both(name, build, shape)] == [of_module, of_model]


@pytest.mark.parametrize("structure", STRUCTURES, ids=lambda structure: structure.name)
def test_real_structures_get_the_same_verdicts(structure: Structure) -> None:
    plans = both(structure.name, structure.build, structure.shape)
    assert tally(plans[0]) == tally(plans[1])
