"""Affines that travel in PyTorch: the same rules as for ONNX, seen through ATen calls; refusals first."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch_modules import assert_scale_matters, judged_fold, shaken, verdicts

from bnfold.core.reason import Reason

IMAGE = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
TOKENS = torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(2))


class Net(nn.Module):
    """Some parts, wired by a function; the batch norm is called ``bn``."""

    def __init__(self, wire: Callable[[Any, torch.Tensor], torch.Tensor], **parts: nn.Module) -> None:
        super().__init__()
        self.wire = [wire]
        for name, part in parts.items():
            self.add_module(name, part)
        shaken(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.wire[0](self, x)


def conv(outputs: int = 4) -> nn.Conv2d:
    return nn.Conv2d(3, outputs, 3)


def net(wire: Callable[[Any, torch.Tensor], torch.Tensor], **parts: nn.Module) -> Callable[[], nn.Module]:
    torch.manual_seed(0)
    return lambda: Net(wire, **parts)


def made_small(module: nn.Module) -> nn.Module:
    """Its batch norm gives values that are small beside those of the code around it."""
    with torch.no_grad():
        module.get_parameter("bn.weight").mul_(1e-3)
    return module


def made_positive(module: nn.Module) -> nn.Module:
    module.get_parameter("bn.weight").data.abs_()
    return module


def made_negative(module: nn.Module) -> nn.Module:
    made_positive(module).get_parameter("bn.weight").data.neg_()
    return module


REFUSALS = [
    pytest.param(
        net(lambda m, x: m.bn(m.conv(x).flatten(1)), conv=nn.Conv2d(3, 2, 7), bn=nn.BatchNorm1d(8)),
        IMAGE,
        Reason.LAYOUT_MOVES_CHANNELS.slug,
        id="flatten with a scale per pixel",
    ),
    pytest.param(
        net(lambda m, x: m.bn(m.conv(x).transpose(1, 2)), conv=nn.Conv2d(3, 6, 3), bn=nn.BatchNorm2d(6)),
        IMAGE,
        "channel-mismatch",
        id="a transposition of equal sizes",
    ),
    pytest.param(
        net(lambda m, x: m.bn(functional.max_pool2d(m.conv(x), 2).abs()), conv=conv(), bn=nn.BatchNorm2d(4)),
        IMAGE,
        "no-linear-layer",
        id="an absolute value",
    ),
    pytest.param(
        net(lambda m, x: m.bn(functional.avg_pool2d(m.conv(x), 3, padding=1)), conv=conv(), bn=nn.BatchNorm2d(4)),
        IMAGE,
        Reason.PADDED_INPUT.slug,
        id="a mean that counts its padding",
    ),
    pytest.param(
        net(lambda m, x: m.bn(functional.pad(m.conv(x), [1, 1, 1, 1])), conv=conv(), bn=nn.BatchNorm2d(4)),
        IMAGE,
        Reason.PADDED_INPUT.slug,
        id="zero padding",
    ),
    pytest.param(
        net(
            lambda m, x: m.bn(y := m.conv(x)) * functional.adaptive_avg_pool2d(y, 1), conv=conv(), bn=nn.BatchNorm2d(4)
        ),
        IMAGE,
        "fan-out",
        id="squeeze and excite",
    ),
    pytest.param(
        net(lambda m, x: m.bn(m.conv(x) + m.other(x).relu()), conv=conv(), other=conv(), bn=nn.BatchNorm2d(4)),
        IMAGE,
        "no-linear-layer",
        id="a sum with an activation",
    ),
    pytest.param(
        net(lambda m, x: m.bn((y := m.conv(x)) + y), conv=conv(), bn=nn.BatchNorm2d(4)), IMAGE, "fan-out", id="u + u"
    ),
    pytest.param(
        net(
            lambda m, x: m.bn(torch.add(m.conv(x), m.other(x), alpha=0)),
            conv=conv(),
            other=conv(),
            bn=nn.BatchNorm2d(4),
        ),
        IMAGE,
        "no-linear-layer",
        id="a sum with the factor 0",
    ),
    pytest.param(
        net(
            lambda m, x: m.bn(torch.stack([m.conv(x), m.other(x)], 1).flatten(1, 2)),
            conv=conv(2),
            other=conv(2),
            bn=nn.BatchNorm2d(4),
        ),
        IMAGE,
        Reason.LAYOUT_MOVES_CHANNELS.slug,
        id="two stacks of channels, flattened",
    ),
    pytest.param(
        net(
            lambda m, x: m.bn(torch.stack([m.conv(x), m.other(x)], 1).flatten(2, 3)),
            conv=conv(2),
            other=conv(2),
            bn=nn.BatchNorm2d(2),
        ),
        IMAGE,
        Reason.LAYOUT_MOVES_CHANNELS.slug,
        id="a batch norm over the axis of the stack",
    ),
    pytest.param(
        net(
            lambda m, x: m.bn(torch.stack([m.conv(x), m.other(x).relu()]).mean(0)),
            conv=conv(),
            other=conv(),
            bn=nn.BatchNorm2d(4),
        ),
        IMAGE,
        "no-linear-layer",
        id="a mean of a stack with an activation",
    ),
    pytest.param(
        net(
            lambda m, x: m.conv(torch.stack([m.bn(x), x]).mean(0)),
            conv=conv(),
            bn=nn.BatchNorm2d(3),
        ),
        IMAGE,
        "no-linear-layer",
        id="a stack below with another value",
    ),
    pytest.param(
        net(
            lambda m, x: m.bn(functional.avg_pool2d(m.conv(x), 2, divisor_override=3)),
            conv=conv(),
            bn=nn.BatchNorm2d(4),
        ),
        IMAGE,
        Reason.PADDED_INPUT.slug,
        id="a mean with another divisor",
    ),
    pytest.param(
        net(
            lambda m, x: m.bn(functional.avg_pool2d(m.conv(x), 3, padding=1, ceil_mode=True)),
            conv=conv(),
            bn=nn.BatchNorm2d(4),
        ),
        IMAGE,
        Reason.PADDED_INPUT.slug,
        id="a mean that counts its padding and reaches over it",
    ),
    pytest.param(
        lambda: made_negative(net(lambda m, x: m.bn(m.conv(x).amax((2, 3))), conv=conv(), bn=nn.BatchNorm1d(4))()),
        IMAGE,
        "no-linear-layer",
        id="a maximum over positions, and a negative scale",
    ),
    pytest.param(
        net(lambda m, x: m.bn(m.conv(x).sum((2, 3))), conv=conv(), bn=nn.BatchNorm1d(4)),
        IMAGE,
        "no-linear-layer",
        id="a sum over positions, of which another image has more",
    ),
    pytest.param(
        net(lambda m, x: m.bn(m.conv(x).mean((2, 3), dtype=torch.float64).float()), conv=conv(), bn=nn.BatchNorm1d(4)),
        IMAGE,
        "no-linear-layer",
        id="a mean in another dtype",
    ),
    pytest.param(
        net(lambda m, x: m.bn(m.conv(x)[:, :, 1:]) + m.conv(x)[:, :, 1:], conv=conv(), bn=nn.BatchNorm2d(4)),
        IMAGE,
        "runs-more-than-once",
        id="a crop of one of two calls",
    ),
    pytest.param(
        net(lambda m, x: m.bn(m.conv(x) + 17), conv=conv(), bn=nn.BatchNorm2d(4)),
        IMAGE,
        "no-linear-layer",
        id="a summand in the code that would take bits from the value",
    ),
    pytest.param(
        lambda: made_small(net(lambda m, x: m.bn(m.conv(x) + 3), conv=conv(), bn=nn.BatchNorm2d(4))()),
        IMAGE,
        "no-linear-layer",
        id="a summand in the code, and small values from the batch norm",
    ),
    pytest.param(
        net(lambda m, x: m.bn(m.conv(x) * torch.tensor(0.0) + 3), conv=conv(), bn=nn.BatchNorm2d(4)),
        IMAGE,
        "no-linear-layer",
        id="a product with 0, and a summand",
    ),
    pytest.param(
        net(lambda m, x: m.bn(m.conv(x) + 2.0**12 - 2.0**12), conv=conv(), bn=nn.BatchNorm2d(4)),
        IMAGE,
        "no-linear-layer",
        id="a summand that rounds on purpose",
    ),
    pytest.param(
        net(lambda m, x: m.conv(m.bn(x) + 3), conv=nn.Conv2d(3, 4, 3, padding=1), bn=nn.BatchNorm2d(3)),
        IMAGE,
        "padded-input",
        id="a summand in the code before a padded layer",
    ),
]


@pytest.mark.parametrize(("make", "x", "slug"), REFUSALS)
def test_kept(make: Callable[[], nn.Module], x: torch.Tensor, slug: str) -> None:
    assert verdicts(judged_fold(make(), x).plan) == {"bn": slug}


FOLDS = [
    pytest.param(
        net(lambda m, x: m.bn(m.fc(x).transpose(1, 2)), fc=nn.Linear(6, 4), bn=nn.BatchNorm1d(4)),
        TOKENS,
        "fc",
        id="transpose",
    ),
    pytest.param(
        net(lambda m, x: m.bn(m.fc(x).permute(0, 2, 1)), fc=nn.Linear(6, 4), bn=nn.BatchNorm1d(4)),
        TOKENS,
        "fc",
        id="permute",
    ),
    pytest.param(
        net(lambda m, x: m.bn(m.fc(x).flatten(0, 1)).reshape(2, 5, 4), fc=nn.Linear(6, 4), bn=nn.BatchNorm1d(4)),
        TOKENS,
        "fc",
        id="flatten to rows and back (LeViT)",
    ),
    pytest.param(
        net(lambda m, x: m.bn(m.fc(x).view(2, 5, 4, 2, 1).flatten(0, 1)), fc=nn.Linear(6, 8), bn=nn.BatchNorm2d(4)),
        TOKENS,
        "fc",
        id="unflatten to images",
    ),
    pytest.param(
        net(
            lambda m, x: m.bn(functional.adaptive_avg_pool2d(m.conv(x), 1).flatten(1)),
            conv=conv(),
            bn=nn.BatchNorm1d(4),
        ),
        IMAGE,
        "conv",
        id="global mean, flatten",
    ),
    pytest.param(
        net(lambda m, x: m.bn(m.conv(x).mean((2, 3))), conv=conv(), bn=nn.BatchNorm1d(4)),
        IMAGE,
        "conv",
        id="mean over positions",
    ),
    pytest.param(
        net(lambda m, x: m.bn(functional.avg_pool2d(m.conv(x), 2)), conv=conv(), bn=nn.BatchNorm2d(4)),
        IMAGE,
        "conv",
        id="avg_pool2d",
    ),
    pytest.param(
        lambda: made_positive(
            net(lambda m, x: m.bn(functional.max_pool2d(m.conv(x), 2)), conv=conv(), bn=nn.BatchNorm2d(4))()
        ),
        IMAGE,
        "conv",
        id="max_pool2d, positive scales",
    ),
    pytest.param(
        net(lambda m, x: m.bn(functional.interpolate(m.conv(x), scale_factor=2)), conv=conv(), bn=nn.BatchNorm2d(4)),
        IMAGE,
        "conv",
        id="nearest",
    ),
    pytest.param(
        net(
            lambda m, x: m.bn(functional.interpolate(m.conv(x), scale_factor=2, mode="bilinear")),
            conv=conv(),
            bn=nn.BatchNorm2d(4),
        ),
        IMAGE,
        "conv",
        id="bilinear",
    ),
    pytest.param(
        net(lambda m, x: m.bn(functional.pad(m.conv(x), [1, 1, 1, 1], "reflect")), conv=conv(), bn=nn.BatchNorm2d(4)),
        IMAGE,
        "conv",
        id="reflect padding",
    ),
    pytest.param(
        net(lambda m, x: m.bn(m.conv(x) - m.other(x)), conv=conv(), other=conv(), bn=nn.BatchNorm2d(4)),
        IMAGE,
        "conv,other",
        id="a difference",
    ),
    pytest.param(
        net(lambda m, x: m.bn(m.conv(x).sub_(m.other(x), alpha=3)), conv=conv(), other=conv(), bn=nn.BatchNorm2d(4)),
        IMAGE,
        "conv,other",
        id="a difference with a factor, in place",
    ),
    pytest.param(
        net(
            lambda m, x: m.bn(torch.add(m.conv(x), m.other(x), alpha=-2)),
            conv=conv(),
            other=conv(),
            bn=nn.BatchNorm2d(4),
        ),
        IMAGE,
        "conv,other",
        id="a sum with a factor",
    ),
    pytest.param(
        net(
            lambda m, x: m.bn(torch.stack([m.conv(x), m.other(x)]).mean(0)),
            conv=conv(),
            other=conv(),
            bn=nn.BatchNorm2d(4),
        ),
        IMAGE,
        "conv,other",
        id="the mean of a stack",
    ),
    pytest.param(
        net(
            lambda m, x: m.bn(torch.stack([m.conv(x), m.other(x)], -1).mean(-1)),
            conv=conv(),
            other=conv(),
            bn=nn.BatchNorm2d(4),
        ),
        IMAGE,
        "conv,other",
        id="the mean of a stack along a last axis",
    ),
    pytest.param(
        net(lambda m, x: m.bn(-m.conv(x)), conv=conv(), bn=nn.BatchNorm2d(4)),
        IMAGE,
        "conv",
        id="a negation",
    ),
    pytest.param(
        lambda: made_positive(net(lambda m, x: m.bn(m.conv(x).amax((2, 3))), conv=conv(), bn=nn.BatchNorm1d(4))()),
        IMAGE,
        "conv",
        id="a maximum over positions, positive scales",
    ),
    pytest.param(
        net(lambda m, x: m.bn(m.conv(x).mean(1, keepdim=True)), conv=conv(), bn=nn.BatchNorm2d(1)),
        IMAGE,
        "conv",
        id="a mean over channels",
    ),
    pytest.param(
        net(
            lambda m, x: m.bn(functional.avg_pool2d(m.conv(x), 3, 2, ceil_mode=True)), conv=conv(), bn=nn.BatchNorm2d(4)
        ),
        IMAGE,
        "conv",
        id="a mean that reaches over the end, and does not count that",
    ),
    pytest.param(
        net(
            lambda m, x: m.bn(functional.avg_pool2d(m.conv(x), 3, padding=1, ceil_mode=True, count_include_pad=False)),
            conv=conv(),
            bn=nn.BatchNorm2d(4),
        ),
        IMAGE,
        "conv",
        id="a mean that leaves its padding out",
    ),
    pytest.param(
        net(lambda m, x: m.bn(m.conv(x) + m.other(x)), conv=conv(), other=conv(), bn=nn.BatchNorm2d(4)),
        IMAGE,
        "conv,other",
        id="a sum",
    ),
    pytest.param(
        net(lambda m, x: m.bn(m.conv(x).add_(m.other(x))), conv=conv(), other=conv(), bn=nn.BatchNorm2d(4)),
        IMAGE,
        "conv,other",
        id="a sum in place",
    ),
    pytest.param(
        net(lambda m, x: m.bn(torch.cat([m.conv(x), m.other(x)], 1)), conv=conv(), other=conv(2), bn=nn.BatchNorm2d(6)),
        IMAGE,
        "conv,other",
        id="joined channels",
    ),
    pytest.param(
        net(lambda m, x: m.bn(m.conv(x).chunk(2, 1)[0]) * m.other(x), conv=conv(), other=conv(2), bn=nn.BatchNorm2d(2)),
        IMAGE,
        "conv",
        id="a chunk of the channels",
    ),
    pytest.param(
        net(lambda m, x: m.bn(m.conv(x)[:, 1:3, ::2]), conv=conv(), bn=nn.BatchNorm2d(2)), IMAGE, "conv", id="slices"
    ),
    pytest.param(
        net(lambda m, x: m.bn(functional.pixel_shuffle(m.conv(x), 2)), conv=conv(8), bn=nn.BatchNorm2d(2)),
        IMAGE,
        "conv",
        id="pixel shuffle",
    ),
    pytest.param(
        net(lambda m, x: m.fc(m.bn(x).flatten(1)), fc=nn.Linear(192, 4), bn=nn.BatchNorm2d(3)),
        IMAGE,
        "fc",
        id="below flatten",
    ),
    pytest.param(
        net(lambda m, x: m.fc(m.bn(x).mean((2, 3))), fc=nn.Linear(3, 4), bn=nn.BatchNorm2d(3)),
        IMAGE,
        "fc",
        id="below a mean",
    ),
    pytest.param(
        net(lambda m, x: m.fc(m.bn(x.transpose(1, 2)).transpose(1, 2)), fc=nn.Linear(6, 4), bn=nn.BatchNorm1d(6)),
        TOKENS,
        "fc",
        id="below a transposition",
    ),
    pytest.param(
        net(lambda m, x: m.conv(y := m.bn(x)) * m.other(y), conv=conv(), other=conv(), bn=nn.BatchNorm2d(3)),
        IMAGE,
        "conv,other",
        id="two readers below",
    ),
    pytest.param(
        net(
            lambda m, x: m.conv(functional.pixel_unshuffle(m.bn(x), 2)), conv=nn.Conv2d(12, 4, 3), bn=nn.BatchNorm2d(3)
        ),
        IMAGE,
        "conv",
        id="below pixel unshuffle",
    ),
    pytest.param(
        net(lambda m, x: m.bn(m.conv(x) + 3), conv=conv(), bn=nn.BatchNorm2d(4)), IMAGE, "conv", id="plus a number"
    ),
    pytest.param(
        net(lambda m, x: m.bn(0.5 - m.conv(x).mul_(2)), conv=conv(), bn=nn.BatchNorm2d(4)),
        IMAGE,
        "conv",
        id="a number minus it",
    ),
    pytest.param(
        net(
            lambda m, x: m.bn(m.conv(x) * 0.5 + m.other.bias[:, None, None]),
            conv=conv(),
            other=conv(),
            bn=nn.BatchNorm2d(4),
        ),
        IMAGE,
        "conv",
        id="times a number, plus a stored tensor",
    ),
    pytest.param(
        net(lambda m, x: m.conv(m.bn(x) + 3), conv=nn.Conv2d(3, 4, 3), bn=nn.BatchNorm2d(3)),
        IMAGE,
        "conv",
        id="plus a number, above a layer",
    ),
]


@pytest.mark.parametrize(("make", "x", "into"), FOLDS)
def test_folded_exactly(make: Callable[[], nn.Module], x: torch.Tensor, into: str) -> None:
    module = make()
    assert_scale_matters(module, "bn", x)
    result = judged_fold(module, x)
    assert {name: set(layers.split(",")) for name, layers in verdicts(result.plan).items()} == {
        "bn": set(into.split(","))
    }
    assert type(result.model.get_submodule("bn")) is nn.Identity
