"""What rounding keeps apart is no mistake of a fold, and a mistake is not taken for rounding."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch_modules import Doubling, Wired, plain, run, shaken, verdicts

from bnfold import fold
from bnfold.errors import InputError
from bnfold.formats.torch.agreement import agree

IMAGE = torch.randn(2, 3, 9, 9, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("narrow", [torch.float16, torch.bfloat16], ids=str)
def test_a_model_that_computes_in_half_precision_and_returns_floats_is_checked_as_half(narrow: torch.dtype) -> None:
    net = shaken(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)).to(narrow))
    wrapped = Wired(lambda net, x: net.inner(x.to(narrow)).float())
    wrapped.inner = net
    assert verdicts(fold(wrapped, IMAGE).plan) == {"inner.1": "inner.0"}


def far_from_zero(offset: float, dtype: torch.dtype = torch.float32) -> tuple[Any, torch.Tensor]:
    """A batch norm that takes a large mean away, and multiplies what rounding has left of the rest."""
    torch.manual_seed(0)
    x = IMAGE + offset
    net: Any = Wired(plain, conv=nn.Conv2d(3, 3, 3))
    with torch.no_grad():
        net.bn.running_mean.copy_(net.conv(x).mean((0, 2, 3)))
        net.bn.running_var.fill_(1e-3)
        net.bn.bias.zero_()
    return net.to(dtype), x.to(dtype)


@pytest.mark.parametrize(
    ("offset", "dtype", "magnified"),
    [
        pytest.param(1e4, torch.float32, 5e-3, id="as one ulp in the inputs does"),
        pytest.param(1e6, torch.float32, 5e-1, id="as half an ulp in the numbers does"),
        pytest.param(256, torch.bfloat16, 5e-1, id="bfloat16"),
    ],
)
def test_a_model_that_magnifies_rounding_is_given_what_rounding_makes(
    offset: float, dtype: torch.dtype, magnified: float
) -> None:
    net, x = far_from_zero(offset, dtype)
    expected = run(net, x)
    result = fold(net, x)
    assert verdicts(result.plan) == {"bn": "conv"}
    error = (run(result.model, x) - expected).abs().max() / expected.abs().max()
    assert magnified / 30 < error < magnified * 6  # which roundings a convolution makes is the processor's choice


def test_a_model_that_is_all_rounding_is_refused_with_what_to_do_and_folds_in_float64() -> None:
    net, x = far_from_zero(1e4, torch.bfloat16)
    with pytest.raises(InputError, match="magnifies rounding") as caught:
        fold(net, x)
    assert "fold model.double()" in str(caught.value)
    assert verdicts(fold(net.double(), x.double()).plan) == {"bn": "conv"}


class Iterated(nn.Module):
    """Convolutions, batch norms and sines of a hundred times what they give: chaos."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.convs = nn.ModuleList(nn.Conv2d(3, 3, 1) for _ in range(4))
        self.norms = nn.ModuleList(nn.BatchNorm2d(3) for _ in range(4))
        for norm in self.norms:
            assert isinstance(norm.running_mean, torch.Tensor)
            assert isinstance(norm.running_var, torch.Tensor)
            norm.running_mean.normal_()
            norm.running_var.uniform_(0.1, 2)
        self.eval()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = torch.sin(100 * norm(conv(x)))
        return x.mean((2, 3))


@pytest.mark.parametrize("seed", [28, 42])
def test_chaos_that_half_an_ulp_does_not_always_show_is_no_bug_of_ours(seed: int) -> None:
    net = Iterated(seed)
    with pytest.raises(InputError, match="magnifies rounding"):
        fold(net, torch.randn(1, 3, 2, 2))


def test_parameters_of_a_kind_that_copies_share_are_not_widened() -> None:
    net, x = far_from_zero(1e6)
    net.conv.weight = Doubling(net.conv.weight.detach() / 2)
    before = net.conv.weight.detach().clone()
    assert not agree([torch.zeros(2)], [torch.ones(2)], net, (x,), folded=net)
    assert net.conv.weight.dtype is before.dtype
    assert torch.equal(net.conv.weight.detach(), before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_wrong_channel_is_not_taken_for_rounding(dtype: torch.dtype) -> None:
    net, x = far_from_zero(64, dtype)
    folded = fold(net, x).model
    expected, right = run(net, x), run(folded, x)
    assert agree([expected], [right], net, (x,), folded=folded)
    with torch.no_grad():
        folded.conv.weight[1] *= 1.3
    assert not agree([expected], [run(folded, x)], net, (x,), folded=folded)
