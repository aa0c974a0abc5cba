"""Batch norms before layers, and batch norms that go into others, in PyTorch."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch_modules import assert_scale_matters, judged_fold, shaken, verdicts

IMAGE = torch.randn(2, 3, 9, 9, generator=torch.Generator().manual_seed(1))
ROWS = torch.randn(4, 6, generator=torch.Generator().manual_seed(2))


def before(layer: nn.Module, bn: nn.Module | None = None) -> nn.Module:
    return shaken(nn.Sequential(bn or nn.BatchNorm2d(3), layer))


REFUSALS = [
    pytest.param(lambda: before(nn.Conv2d(3, 4, 3, padding=1)), IMAGE, "padded-input", id="zero padding"),
    pytest.param(lambda: before(nn.Conv2d(3, 4, 3, padding="same")), IMAGE, "padded-input", id="'same'"),
    pytest.param(lambda: before(nn.ConvTranspose2d(3, 4, 3)), IMAGE, "padded-input", id="transposed"),
    pytest.param(lambda: before(nn.ConvTranspose2d(3, 4, 1, stride=2)), IMAGE, "padded-input", id="strided transposed"),
    pytest.param(
        lambda: before(nn.ConvTranspose2d(3, 4, 1, padding=1)), IMAGE, "padded-input", id="cropped transposed"
    ),
    pytest.param(
        lambda: before(nn.Linear(5, 4), nn.BatchNorm1d(5)),
        torch.randn(2, 5, 5),
        "channel-mismatch",
        id="linear on (N, C, C)",
    ),
]


@pytest.mark.parametrize(("make", "x", "slug"), REFUSALS)
def test_kept(make: Callable[[], nn.Module], x: torch.Tensor, slug: str) -> None:
    assert verdicts(judged_fold(make(), x).plan) == {"0": slug}


FOLDS = [
    pytest.param(lambda: before(nn.Conv2d(3, 4, 3)), IMAGE, id="conv"),
    pytest.param(
        lambda: before(nn.Conv2d(3, 4, 3, bias=False, padding="valid")), IMAGE, id="conv without bias, 'valid'"
    ),
    pytest.param(lambda: before(nn.Conv2d(3, 4, 1, padding="same")), IMAGE, id="pointwise 'same'"),
    pytest.param(lambda: before(nn.Conv2d(3, 6, 3, groups=3, stride=2)), IMAGE, id="depthwise, strided"),
    pytest.param(lambda: before(nn.ConvTranspose2d(3, 4, 1)), IMAGE, id="pointwise transposed"),
    pytest.param(lambda: before(nn.Linear(6, 4), nn.BatchNorm1d(6)), ROWS, id="linear"),
    pytest.param(lambda: before(nn.Linear(6, 4, bias=False), nn.BatchNorm1d(6)), ROWS, id="linear without bias"),
]


@pytest.mark.parametrize(("make", "x"), FOLDS)
def test_folded_into_the_layer_below(make: Callable[[], nn.Module], x: torch.Tensor) -> None:
    module = make()
    assert_scale_matters(module, "0", x)
    result = judged_fold(module, x)
    assert verdicts(result.plan) == {"0": "1"}
    assert type(result.model.get_submodule("0")) is nn.Identity


def test_two_batch_norms_that_have_to_stay_become_one() -> None:
    net = shaken(nn.Sequential(nn.ReLU(), nn.BatchNorm2d(3), nn.BatchNorm2d(3), nn.ReLU()))
    result = judged_fold(net, IMAGE)
    assert verdicts(result.plan) == {"1": "no-linear-layer", "2": "1"}


def test_one_without_parameters_of_its_own_takes_no_other_in() -> None:
    net = shaken(nn.Sequential(nn.ReLU(), nn.BatchNorm2d(3, affine=False), nn.BatchNorm2d(3), nn.ReLU()))
    assert verdicts(judged_fold(net, IMAGE).plan) == {"1": "no-linear-layer", "2": "no-linear-layer"}
