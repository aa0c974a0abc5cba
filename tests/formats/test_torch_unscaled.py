"""A batch norm behind a sum of which nothing can scale an addend: a layer makes up for that; refusals first."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch_modules import assert_scale_matters, judged_fold, shaken, verdicts

from bnfold import fold
from bnfold.core.verdict import Keep

IMAGE = torch.randn(2, 4, 6, 6, generator=torch.Generator().manual_seed(1))


class Sum(nn.Module):
    """A ReLU, then a sum of two convolutions and whatever else a function adds up, and a batch norm behind it."""

    def __init__(
        self,
        total: Callable[[Any, torch.Tensor], torch.Tensor],
        conv: nn.Module | None = None,
        scale: tuple[float, ...] = (0.5, 1.5, -0.9, 3.0),
    ) -> None:
        super().__init__()
        self.conv = conv or nn.Conv2d(4, 4, 3, padding=1)
        self.point = nn.Conv2d(4, 4, 1, groups=2)
        self.bn, self.total = nn.BatchNorm2d(4), [total]
        shaken(self)
        assert self.bn.running_var is not None
        with torch.no_grad():
            self.bn.weight.copy_(torch.tensor(scale) * (self.bn.running_var + self.bn.eps).sqrt())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(self.total[0](self, torch.relu(x)))


def plus(m: Any, x: torch.Tensor) -> Any:
    return m.bn(m.conv(x) + x)


def conv(kernel: int, **options: Any) -> nn.Conv2d:
    return nn.Conv2d(4, 4, kernel, **options)


def read_again(m: Any, x: torch.Tensor) -> Any:
    value = m.conv(x)
    return m.bn(value + x) + value


def sum_read_again(m: Any, x: torch.Tensor) -> Any:
    total = m.conv(x) + x
    return m.bn(total) + total


def another_value(m: Any, x: torch.Tensor) -> Any:
    value = x.sigmoid()
    return m.bn(m.conv(x) + value) + value


def written_between(m: Any, x: torch.Tensor) -> Any:
    value = m.conv(x)
    return m.bn(value + x.mul_(x)) + x


REFUSALS = [
    pytest.param(lambda: Sum(another_value), "no-linear-layer", id="no layer reads the addend"),
    pytest.param(
        lambda: Sum(written_between), "no-linear-layer", id="the addend is written to after the layer has read it"
    ),
    pytest.param(lambda: Sum(read_again), "fan-out", id="the layer is read elsewhere"),
    pytest.param(lambda: Sum(sum_read_again), "fan-out", id="the sum is read elsewhere"),
    pytest.param(lambda: Sum(lambda m, x: m.bn(m.conv(x) * x)), "no-linear-layer", id="a product"),
    pytest.param(lambda: Sum(lambda m, x: m.bn(m.conv(x) + x) + m.conv(-x)), "runs-more-than-once", id="called twice"),
    pytest.param(
        lambda: Sum(plus, conv(3, padding=1, padding_mode="circular")), "no-linear-layer", id="a padding of values"
    ),
    pytest.param(lambda: Sum(plus, nn.ConvTranspose2d(4, 4, 1)), "no-linear-layer", id="a transposed convolution"),
    pytest.param(
        lambda: Sum(lambda m, x: m.bn(m.conv(x) + functional.avg_pool2d(x, 3, 1, 1)), conv(1)),
        "no-linear-layer",
        id="a mean over a larger window than the kernel",
    ),
    pytest.param(
        lambda: Sum(lambda m, x: m.bn(m.conv(x) + functional.avg_pool2d(x, 3, 1, 1, count_include_pad=False))),
        "no-linear-layer",
        id="a mean that leaves its padding out",
    ),
    pytest.param(
        lambda: Sum(lambda m, x: m.bn(m.conv(x) + x), nn.Conv2d(4, 1, 1)),
        "channel-mismatch",
        id="one channel, which the sum broadcasts",
    ),
    pytest.param(lambda: Sum(plus, scale=(0.5, 1.0, 0.015, 1.0)), "fan-out", id="a scale that rounding would eat"),
    pytest.param(lambda: Sum(plus, scale=(0.5, 1.0, 0.0, 1.0)), "fan-out", id="a channel that is switched off"),
]


@pytest.mark.parametrize(("make", "slug"), REFUSALS)
def test_kept(make: Callable[[], nn.Module], slug: str) -> None:
    assert verdicts(judged_fold(make(), IMAGE).plan) == {"bn": slug}


def test_a_small_scale_is_named() -> None:
    (verdict,) = judged_fold(Sum(plus, scale=(0.5, 1.0, 0.015, 1.0)), IMAGE).plan
    assert isinstance(verdict, Keep)
    assert "small scale" in verdict.detail


FOLDS = [
    pytest.param(lambda: Sum(plus), "conv", id="3x3"),
    pytest.param(lambda: Sum(lambda m, x: m.bn(x + m.conv(x)), conv(1)), "conv", id="1x1, the other way round"),
    pytest.param(lambda: Sum(plus, conv(3, padding=2, dilation=2, groups=4)), "conv", id="depthwise, dilated"),
    pytest.param(lambda: Sum(plus, conv(3, padding="same", bias=False)), "conv", id="without a bias"),
    pytest.param(lambda: Sum(lambda m, x: m.bn(m.conv(x) - x)), "conv", id="less the input"),
    pytest.param(lambda: Sum(lambda m, x: m.bn(x - m.conv(x))), "conv", id="the input less the layer"),
    pytest.param(lambda: Sum(lambda m, x: m.bn(torch.sub(m.conv(x), x, alpha=0.5))), "conv", id="with a factor"),
    pytest.param(lambda: Sum(lambda m, x: m.bn(m.conv(x) + x + x)), "conv", id="added twice"),
    pytest.param(lambda: Sum(lambda m, x: m.bn(m.conv(x).add_(x))), "conv", id="in place"),
    pytest.param(lambda: Sum(lambda m, x: m.bn(m.conv(x) + x.clone())), "conv", id="a copy"),
    pytest.param(lambda: Sum(lambda m, x: m.bn(m.conv(y := x.clone()) + y.clone().clone())), "conv", id="copies"),
    pytest.param(
        lambda: Sum(lambda m, x: m.bn(m.conv(x) + functional.avg_pool2d(x, 3, 1, 1))), "conv", id="a mean of the input"
    ),
    pytest.param(
        lambda: Sum(lambda m, x: m.bn(m.conv(x) - (y := functional.avg_pool2d(x.clone(), 3, 1, 1))) + y),
        "conv",
        id="less a mean that is read elsewhere",
    ),
    pytest.param(
        lambda: Sum(lambda m, x: m.bn(m.conv(y := functional.avg_pool2d(x, 3, 1, 1)) + y)), "conv", id="a mean, beside"
    ),
    pytest.param(
        lambda: Sum(lambda m, x: m.bn(m.conv(x) + m.point(x) + x)), "conv,point", id="beside two layers (RepViT)"
    ),
    pytest.param(
        lambda: Sum(lambda m, x: m.bn(m.conv(x) + (x - m.point(x)))), "conv,point", id="in a sum within the sum"
    ),
    pytest.param(lambda: Sum(lambda m, x: m.bn(functional.avg_pool2d(m.conv(x) + x, 2))), "conv", id="before a pool"),
    pytest.param(
        lambda: Sum(lambda m, x: m.bn(torch.cat([m.conv(x) + x, m.point(x)], 1)[:, 2:6])),
        "conv,point",
        id="in a concatenation of which a part goes on",
    ),
]


@pytest.mark.parametrize(("make", "into"), FOLDS)
def test_a_layer_makes_up_for_what_stays_as_it_is(make: Callable[[], nn.Module], into: str) -> None:
    module = make()
    assert_scale_matters(module, "bn", IMAGE)
    result = judged_fold(module, IMAGE)
    (verdict,) = result.plan
    assert sorted(verdicts(result.plan)["bn"].split(",")) == into.split(",")
    assert isinstance(result.model.bn, nn.Identity), verdict


def test_the_input_of_the_model_stays_as_it_is_too() -> None:
    class Whole(Sum):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.sigmoid(self.total[0](self, x))

    assert verdicts(judged_fold(Whole(plus), IMAGE).plan) == {"bn": "conv"}


def test_rows_of_features_pass_a_linear_layer_in_the_same_way() -> None:
    class Rows(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear, self.bn = nn.Linear(4, 4), nn.BatchNorm1d(4)
            shaken(self)

        def forward(self, x: torch.Tensor) -> Any:
            x = x.relu()
            return self.bn(self.linear(x) + x).relu()

    assert verdicts(judged_fold(Rows(), torch.randn(5, 4)).plan) == {"bn": "linear"}


def test_batch_norms_of_both_sides_of_the_layer_fold_one_after_the_other() -> None:
    class Between(Sum):
        def __init__(self) -> None:
            super().__init__(plus, nn.Conv2d(4, 4, 1))
            self.before = nn.BatchNorm2d(4)
            shaken(self, seed=3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(self.before(torch.sigmoid(x)))

    module = Between()
    module.bn.weight.data.fill_(2.0)
    assert verdicts(judged_fold(module, IMAGE).plan)["bn"] == "conv"


def test_halves_of_a_sum_fold_one_after_the_other() -> None:
    class Halves(Sum):
        def __init__(self) -> None:
            super().__init__(plus)
            self.norms = nn.ModuleList(nn.BatchNorm2d(2) for _ in range(2))
            shaken(self, seed=5)
            for norm in self.norms:
                assert isinstance(norm, nn.BatchNorm2d)
                norm.weight.data.fill_(2.0)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = x.relu()
            halves = zip(self.norms, (self.conv(x) + x).chunk(2, 1), strict=True)
            return torch.cat([norm(half).sigmoid() for norm, half in halves], 1)

    found = verdicts(judged_fold(Halves(), IMAGE).plan)
    assert found == {"norms.0": "conv", "norms.1": "conv"}


def test_blocks_in_a_row_fold_each_by_itself() -> None:
    module = nn.Sequential(*(Sum(lambda m, x: m.bn(m.conv(x) + m.point(x) + x)) for _ in range(3)))
    assert set(verdicts(judged_fold(module, IMAGE).plan)) == {"0.bn", "1.bn", "2.bn"}
    assert not any(isinstance(part, nn.BatchNorm2d) for part in judged_fold(module, IMAGE).model.modules())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_in_another_dtype(dtype: torch.dtype) -> None:
    result = judged_fold(Sum(plus).to(dtype), IMAGE.to(dtype))
    assert verdicts(result.plan) == {"bn": "conv"}


@pytest.mark.parametrize(
    ("scale", "dtype"),
    [(0.2, torch.bfloat16), (0.05, torch.float16), (0.01, torch.float32), (2e-4, torch.float64)],
    ids=str,
)
def test_the_smallest_scale_that_rounding_leaves_depends_on_the_dtype(scale: float, dtype: torch.dtype) -> None:
    small, larger = (Sum(plus, scale=(0.5, 1.0, least, 1.0)).to(dtype) for least in (scale, 2 * scale))
    assert verdicts(judged_fold(small, IMAGE.to(dtype)).plan) == {"bn": "fan-out"}
    assert verdicts(judged_fold(larger, IMAGE.to(dtype)).plan) == {"bn": "conv"}


def test_what_a_layer_makes_up_for_must_fit_its_dtype() -> None:
    module = Sum(plus, conv(1, bias=False))
    assert isinstance(module.conv, nn.Conv2d)
    with torch.no_grad():
        module.conv.weight.copy_(torch.eye(4).reshape(4, 4, 1, 1) / 2)
        module.bn.reset_running_stats()
        module.bn.weight.fill_(6e4)
        module.bn.bias.fill_(1)
    assert verdicts(fold(module.half(), IMAGE.half()).plan) == {"bn": "dtype-overflow"}


def test_of_all_addends_that_cannot_take_a_shift_the_nearest_miss_is_told() -> None:
    module = Sum(lambda m, x: m.bn(m.conv(x) + x.sigmoid())).half()
    module.bn.eps = 0.0
    for tensor, value in ((module.bn.running_mean, -6e4), (module.bn.running_var, 1), (module.bn.weight.data, 1)):
        assert isinstance(tensor, torch.Tensor)
        tensor.fill_(value)
    module.bn.bias.data.fill_(6e4)
    assert verdicts(fold(module, IMAGE.half()).plan) == {"bn": "dtype-overflow"}
