"""A batch norm alone in its branch of a sum: its work goes into a layer beside it; refusals first."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch_modules import assert_scale_matters, judged_fold, shaken, verdicts

from bnfold.core.reason import Reason
from bnfold.core.verdict import Fold

IMAGE = torch.randn(2, 4, 6, 6, generator=torch.Generator().manual_seed(1))


class Branches(nn.Module):
    """A ReLU, a conv and a batch norm side by side, joined by a function."""

    def __init__(self, join: Callable[[Any, torch.Tensor], torch.Tensor], conv: nn.Module, **options: Any) -> None:
        super().__init__()
        self.conv, self.bn, self.join = conv, nn.BatchNorm2d(4, **options), [join]
        shaken(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.join[0](self, torch.relu(x)))


def plus(m: Any, x: torch.Tensor) -> Any:
    return m.conv(x) + m.bn(x)


def conv(kernel: int | tuple[int, int], **options: Any) -> nn.Conv2d:
    return nn.Conv2d(4, 4, kernel, **options)


REFUSALS = [
    pytest.param(lambda: Branches(plus, conv(3, padding=1), affine=False), "weight-not-constant", id="no γ to be 0"),
    pytest.param(
        lambda: Branches(lambda m, x: m.conv(x.flip(2)) + m.bn(x), conv(3, padding=1)),
        "unlike-sibling",
        id="it reads another value",
    ),
    pytest.param(
        lambda: Branches(plus, conv(3, padding=1, padding_mode="circular")), "unlike-sibling", id="a padding of values"
    ),
    pytest.param(lambda: Branches(plus, nn.ConvTranspose2d(4, 4, 1)), "no-linear-layer", id="a transposed conv"),
    pytest.param(
        lambda: Branches(lambda m, x: m.conv(x) + (y := m.bn(x)) + y.relu(), conv(1)),
        "fan-out",
        id="read twice",
    ),
    pytest.param(
        lambda: Branches(lambda m, x: (m.conv(x) + 0.5 - 0.5) + m.bn(x), conv(1)),
        "no-linear-layer",
        id="back and forth",
    ),
    pytest.param(
        lambda: Branches(lambda m, x: m.conv(x) + functional.avg_pool2d(m.bn(x), 3, 1, 1), conv(3, padding=1)),
        "padded-input",
        id="a mean that counts its padding, behind the batch norm",
    ),
    pytest.param(
        lambda: Branches(
            lambda m, x: m.conv(x) + m.bn(functional.avg_pool2d(x, 3, 1, 1, count_include_pad=False)),
            conv(3, padding=1),
        ),
        "unlike-sibling",
        id="a mean that leaves its padding out",
    ),
    pytest.param(
        lambda: Branches(
            lambda m, x: m.conv(x) + m.bn(functional.avg_pool2d(x, 3, 1, 1, divisor_override=5)), conv(3, padding=1)
        ),
        "unlike-sibling",
        id="a mean with another divisor",
    ),
]


@pytest.mark.parametrize(("make", "slug"), REFUSALS)
def test_kept(make: Callable[[], nn.Module], slug: str) -> None:
    assert verdicts(judged_fold(make(), IMAGE).plan) == {"bn": slug}


FOLDS = [
    pytest.param(lambda: Branches(plus, conv(3, padding=1)), id="3x3"),
    pytest.param(lambda: Branches(plus, conv(1, bias=False)), id="1x1 without a bias"),
    pytest.param(lambda: Branches(plus, conv(3, padding="same", dilation=2, groups=2)), id="in groups, dilated"),
    pytest.param(lambda: Branches(lambda m, x: m.conv(x).add_(m.bn(x)), conv(3, padding=1)), id="in place"),
    pytest.param(lambda: Branches(lambda m, x: sum((m.conv(x), m.bn(x))), conv(3, padding=1)), id="sum begins with 0"),
    pytest.param(lambda: Branches(lambda m, x: m.conv(x) / 1.0 + m.bn(x - 0) * 1, conv(1)), id="arithmetic in vain"),
    pytest.param(lambda: Branches(lambda m, x: m.conv(x) - m.bn(x), conv(3, padding=1)), id="subtracted"),
    pytest.param(lambda: Branches(lambda m, x: m.bn(x) - m.conv(x), conv(1)), id="less the layer"),
    pytest.param(
        lambda: Branches(lambda m, x: torch.sub(x, m.conv(x) + torch.sub(x, m.bn(x), alpha=3), alpha=2), conv(1)),
        id="in differences of differences, with factors",
    ),
    pytest.param(
        lambda: Branches(lambda m, x: m.conv(x) + m.bn(functional.avg_pool2d(x, 3, 1, 1)), conv(3, padding=1)),
        id="behind a mean with zeros",
    ),
    pytest.param(
        lambda: Branches(lambda m, x: m.conv(x) + m.bn(functional.avg_pool2d(x, 2)), conv(2, stride=2)),
        id="behind a mean at stride 2",
    ),
    pytest.param(
        lambda: Branches(lambda m, x: m.conv(x) + functional.avg_pool2d(m.bn(x), (3, 1), 1), conv((3, 1))),
        id="before a mean",
    ),
    pytest.param(
        lambda: Branches(lambda m, x: m.conv(x).clone() + functional.dropout(m.bn(x), 0.5, False), conv(1)),  # noqa: FBT003 - training
        id="before a dropout, beside a copy",
    ),
]


@pytest.mark.parametrize("make", FOLDS)
def test_it_adds_zeros_and_the_layer_beside_it_does_its_work(make: Callable[[], nn.Module]) -> None:
    module = make()
    assert_scale_matters(module, "bn", IMAGE)
    result = judged_fold(module, IMAGE)
    (verdict,) = result.plan
    assert isinstance(verdict, Fold)
    assert [node.label for node in verdict.into] == ["conv"]
    assert any(Reason.NEUTRALISED_NOT_REMOVED.code in warning for warning in verdict.warnings)
    assert not result.model.bn.weight.any()
    assert not result.model.bn.bias.any()
    assert type(result.model.bn) is nn.BatchNorm2d


def test_what_is_left_of_a_difference_keeps_its_sign() -> None:
    class Difference(Branches):
        def __init__(self) -> None:
            super().__init__(lambda m, x: m.behind(m.bn(x) - m.conv(x)), conv(3, padding=1))
            self.behind = nn.BatchNorm2d(4)
            shaken(self)

    module = Difference()
    assert_scale_matters(module, "behind", IMAGE)
    assert verdicts(judged_fold(module, IMAGE).plan) == {"bn": "conv", "behind": "conv"}
