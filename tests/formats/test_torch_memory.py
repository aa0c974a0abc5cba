"""Batch norms whose input and output share memory, or would once one is an Identity: nobody sees a write too many."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch_modules import Wire, Wired, assert_close, judged_fold, run, shaken, verdicts

IMAGE = torch.randn(2, 3, 9, 9, generator=torch.Generator().manual_seed(1))


class Frozen(nn.Module):
    """A batch norm of buffers, written out as arithmetic (detectron's form)."""

    def __init__(self) -> None:
        super().__init__()
        for name, value in (("weight", 2.0), ("bias", 1.0), ("running_mean", 0.5), ("running_var", 3.0)):
            self.register_buffer(name, torch.full((3,), value))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scale = self.get_buffer("weight") * (self.get_buffer("running_var") + 1e-5).rsqrt()
        shift = self.get_buffer("bias") - self.get_buffer("running_mean") * scale
        return x * scale.reshape(1, -1, 1, 1) + shift.reshape(1, -1, 1, 1)


def input_written(net: Any, x: torch.Tensor) -> torch.Tensor:
    u = torch.relu(x)
    z = net.bn(u)
    u.clamp_(max=1e6)
    return net.conv(z)  # type: ignore[no-any-return]


def input_still_needed(net: Any, x: torch.Tensor) -> torch.Tensor:
    u = torch.relu(x)
    return net.bn(u).clamp_(max=1e6) + u  # type: ignore[no-any-return]


def output_left_alone(net: Any, x: torch.Tensor) -> torch.Tensor:
    u = torch.relu(x)
    return net.conv(net.bn(u)) + net.conv2(u)  # type: ignore[no-any-return]


def assert_own_memory(net: Any, wanted: dict[str, str]) -> None:
    """The batch norms fold and have outputs of their own: it shows where the clamp, which no example reaches, works."""
    result = judged_fold(shaken(net) if "bn2" in wanted else net, IMAGE)
    assert verdicts(result.plan) == wanted
    for verdict in result.plan.folds:
        assert "written in place" in verdict.bn.stays
        assert isinstance(result.model.get_submodule(verdict.bn.label), nn.BatchNorm2d)
    far = IMAGE * 1e8
    assert_close(run(result.model, far), run(net, far))


def test_an_input_that_is_written_before_the_output_is_read_does_not_become_the_output() -> None:
    """An Identity returns its input itself; a clamp that the example never reaches would show in both."""
    assert_own_memory(Wired(input_written, conv=nn.Conv2d(3, 4, 3)), {"bn": "conv"})


def test_an_output_that_is_written_before_the_input_is_read_does_not_become_the_input() -> None:
    net: Any = Wired(input_still_needed, bn=nn.BatchNorm2d(3, eps=0.0))
    net.bn.reset_parameters()  # changes nothing, so that it could go without any neighbour
    assert_own_memory(net, {"bn": ""})


def test_two_batch_norms_in_a_row_would_become_one_memory_too() -> None:
    def wire(net: Any, x: torch.Tensor) -> torch.Tensor:
        u = torch.relu(x)
        z = net.bn2(net.bn(u))
        u.clamp_(max=1e6)
        return net.conv(z)  # type: ignore[no-any-return]

    net: Any = Wired(wire, conv=nn.Conv2d(3, 4, 3))
    net.bn2 = nn.BatchNorm2d(3)
    assert_own_memory(net, {"bn": "conv", "bn2": "conv"})


def test_a_batch_norm_written_out_whose_input_is_written_is_kept() -> None:
    net: Any = Wired(input_written, conv=nn.Conv2d(3, 4, 3), bn=Frozen())
    assert verdicts(judged_fold(net, IMAGE).plan) == {"bn": "fan-out"}


def test_memory_that_nobody_writes_to_may_become_one() -> None:
    net: Any = Wired(output_left_alone, conv=nn.Conv2d(3, 4, 3))
    net.conv2 = nn.Conv2d(3, 4, 3)
    assert verdicts(judged_fold(net, IMAGE).plan) == {"bn": "conv"}


def activated_in_place_then_normalised(net: Any, x: torch.Tensor) -> torch.Tensor:
    y = net.bn(net.conv(x)).relu_()
    return net.bn3(net.conv3(y)) + net.bn2(y)  # type: ignore[no-any-return]


def normalised_then_activated_in_place(net: Any, x: torch.Tensor) -> torch.Tensor:
    y = net.bn(net.conv(x))
    z = net.bn2(y)
    return net.bn3(net.conv3(y.relu_())) + z  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("wire", "wanted"),
    [
        pytest.param(
            normalised_then_activated_in_place,
            {"bn": "conv", "bn2": "unlike-sibling", "bn3": "conv3"},
            id="written after",
        ),
        pytest.param(
            activated_in_place_then_normalised, {"bn": "conv", "bn3": "conv3", "bn2": "conv3"}, id="written before"
        ),
    ],
)
def test_a_write_counts_for_what_was_there_before_it(wire: Wire, wanted: dict[str, str]) -> None:
    """Two batch norms share a value in memory as soon as the second has run: RepGhost writes to it before that."""
    net: Any = Wired(wire, conv=nn.Conv2d(3, 3, 1))
    net.conv3, net.bn3, net.bn2 = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3), nn.BatchNorm2d(3)
    assert verdicts(judged_fold(shaken(net), IMAGE).plan) == wanted


@pytest.mark.parametrize(
    ("wire", "stays"),
    [
        pytest.param(lambda y: y.view(len(y), -1), True, id="view"),
        pytest.param(lambda y: y.relu_().view(len(y), -1), True, id="in place, view"),
        pytest.param(lambda y: (y.sigmoid() * 2).view(len(y), -1), True, id="computed, view"),
        pytest.param(lambda y: y.flatten(1), False, id="flatten"),
        pytest.param(lambda y: y.transpose(1, 2), False, id="transposed back"),
    ],
)
def test_a_batch_norm_that_lays_out_memory_for_a_view_stays(
    wire: Callable[[torch.Tensor], torch.Tensor], *, stays: bool
) -> None:
    net: Any = Wired(lambda net, x: wire(net.bn(net.conv(x).transpose(1, 2))), nn.Linear(5, 3), nn.BatchNorm1d(3))
    result = judged_fold(net, torch.randn(2, 7, 5))
    assert verdicts(result.plan) == {"bn": "conv"}
    assert ("memory" in result.plan.verdicts[0].bn.stays) == stays
    assert isinstance(result.model.bn, nn.BatchNorm1d) == stays
