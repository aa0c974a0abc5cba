"""Several recorded inputs, other sizes and samples, and modules in wrappers: refusals first."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import pytest
import torch
from torch import nn
from torch_modules import assert_close, run, shaken, verdicts

from bnfold import fold
from bnfold.errors import InputError, UsageError
from bnfold.records import InputSpec

SMALL = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
LARGE = torch.randn(1, 3, 96, 128, generator=torch.Generator().manual_seed(2))


class Net(nn.Module):
    """Two convolutions and a batch norm; ``path`` says how they are wired for an input."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(4)
        self.conv, self.other, self.bn = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)
        shaken(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.path(x))

    def path(self, x: torch.Tensor) -> Any:
        return self.bn(self.conv(x))


class BySize(Net):
    """A ReLU stands between for images that are no squares."""

    def path(self, x: torch.Tensor) -> Any:
        y = self.conv(x)
        return self.bn(y if x.shape[2] == x.shape[3] else y.relu())


class BySign(Net):
    """Which convolution feeds the batch norm, the data decides."""

    def path(self, x: torch.Tensor) -> Any:
        return self.bn(self.conv(x)) if x.mean() > 0 else self.bn(self.other(x))


class Raw(Net):
    """Without the batch norm for images that are no squares."""

    def path(self, x: torch.Tensor) -> Any:
        return self.bn(self.conv(x)) if x.shape[2] == x.shape[3] else self.conv(x)


class Factor(Net):
    """What the convolution gives is multiplied by another number for images that are no squares."""

    def path(self, x: torch.Tensor) -> Any:
        return self.bn(self.conv(x) * (2.0 if x.shape[2] == x.shape[3] else 3.0))


class Weight(Net):
    """In a difference, another multiple is subtracted for images that are no squares."""

    def path(self, x: torch.Tensor) -> Any:
        alpha = 2.0 if x.shape[2] == x.shape[3] else 3.0
        return self.bn(torch.sub(self.conv(x), self.other(x), alpha=alpha))


class Summand(Net):
    """Behind a sum, whose other summand is scaled otherwise for images that are no squares."""

    def path(self, x: torch.Tensor) -> Any:
        x = x.relu()
        return self.bn(torch.sub(self.conv(x), x, alpha=2.0 if x.shape[2] == x.shape[3] else 3.0))


WIDE = SMALL[:, :, :4]


@pytest.mark.parametrize(
    ("make", "inputs"),
    [
        pytest.param(BySize, [SMALL, WIDE], id="an operator between, in one of them"),
        pytest.param(BySign, [SMALL.abs(), -SMALL.abs()], id="another layer, by the data"),
        pytest.param(Raw, [SMALL, (WIDE,)], id="no batch norm, in one of them"),
        pytest.param(Raw, [{"x": SMALL}, SMALL, WIDE], id="of three inputs, by keyword and by position"),
        pytest.param(Factor, [SMALL, WIDE], id="another factor"),
        pytest.param(Weight, [SMALL, WIDE], id="another weight in a difference"),
        pytest.param(Summand, [SMALL, WIDE], id="another weight of what a layer makes up for"),
    ],
)
def test_what_is_read_differently_in_another_recorded_run_is_kept(make: type[Net], inputs: list[Any]) -> None:
    net = make()
    result = fold(net, inputs)
    assert verdicts(result.plan) == {"bn": "fan-out"}
    assert "another of the recorded inputs" in result.plan.keeps[0].detail
    assert torch.equal(run(result.model, WIDE), run(net, WIDE))


def test_several_inputs_that_show_the_same_fold() -> None:
    net = Net()
    result = fold(net, [SMALL, WIDE, -SMALL[:1]])
    assert verdicts(result.plan) == {"bn": "conv"}
    assert_close(run(result.model, WIDE), run(net, WIDE))


def test_a_path_that_depends_on_the_number_of_samples_is_an_error_that_says_so() -> None:
    class ByBatch(Net):
        def path(self, x: torch.Tensor) -> Any:
            return self.bn(self.conv(x)) if len(x) > 1 else self.conv(x)

    with pytest.raises(InputError, match="another number of samples"):
        fold(ByBatch(), SMALL)


def test_a_path_that_depends_on_the_size_of_large_images_is_noted() -> None:
    class ByWidth(Net):
        def path(self, x: torch.Tensor) -> Any:
            return self.bn(self.conv(x)) if x.shape[3] > 100 else self.conv(x)

    result = fold(ByWidth(), LARGE)
    assert verdicts(result.plan) == {"bn": "conv"}
    assert any("images of other sizes" in warning for warning in result.warnings)


@pytest.mark.parametrize("size", [8, 9, 128, 129])
def test_code_that_pads_what_does_not_come_out_even_is_noted(size: int) -> None:
    class Padded(Net):
        def path(self, x: torch.Tensor) -> Any:
            y = self.bn(x)
            return self.conv(y if x.shape[3] % 2 == size % 2 else torch.nn.functional.pad(y, (0, 1)))

    result = fold(Padded(), torch.randn(1, 3, size, size))
    assert verdicts(result.plan) == {"bn": "conv"}
    assert any("images of other sizes" in warning for warning in result.warnings)


def test_large_images_are_tried_at_other_sizes_and_samples_with_other_values() -> None:
    class Watching(Net):
        def path(self, x: torch.Tensor) -> Any:
            seen.append(tuple(x.shape))
            return super().path(x)

    seen: list[tuple[int, ...]] = []
    fold(Watching(), LARGE)
    assert (1, 3, 96, 128) in seen
    assert (2, 3, 33, 33) in seen
    assert len(set(seen)) == 2


class Pair(NamedTuple):
    """A tuple with names."""

    first: torch.Tensor
    second: torch.Tensor


@dataclasses.dataclass
class Result:
    """An output with attributes, and more than tensors."""

    logits: torch.Tensor
    loss: None = None
    extra: tuple[str, ...] = ("a",)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda y: {"y": y, "nested": [y * 2, None]},
        lambda y: Pair(y, y * 2),
        Result,
        lambda y: (y, 3, "text"),
        lambda y: (y, nn.Parameter(y + 1)),
    ],
    ids=["dict", "named tuple", "dataclass", "tensors and more", "with a parameter"],
)
def test_outputs_of_any_shape(wrap: Any) -> None:
    class Wrapped(Net):
        def forward(self, x: torch.Tensor, *, gain: torch.Tensor | None = None) -> Any:
            return wrap(self.path(x if gain is None else x * gain))

    net = Wrapped()
    for inputs in (SMALL, {"x": SMALL, "gain": torch.tensor(2.0)}):
        result = fold(net, inputs)
        assert verdicts(result.plan) == {"bn": "conv"}
        assert type(result.model(SMALL)) is type(net(SMALL))


def wrapped(name: str, net: nn.Module) -> Any:
    return nn.DataParallel(net) if name == "DataParallel" else torch.compile(net)


# torch.compile imports what torch itself deprecates (2.13).
@pytest.mark.filterwarnings("ignore:`torch.jit.script:DeprecationWarning")
@pytest.mark.parametrize("name", ["DataParallel", "torch.compile"])
def test_the_module_underneath_a_wrapper_is_folded_and_it_is_said(name: str) -> None:
    net = Net()
    result = fold(wrapped(name, net), SMALL)
    assert type(result.model) is Net
    assert verdicts(result.plan) == {"bn": "conv"}
    assert any("wrapped" in warning for warning in result.warnings)
    assert_close(run(result.model, SMALL), run(net, SMALL))


@pytest.mark.filterwarnings("ignore:`torch.jit.script:DeprecationWarning")  # as above
def test_what_is_compiled_inside_runs_as_written_and_is_compiled_afterwards(caplog: pytest.LogCaptureFixture) -> None:
    """torch.compile would take in bnfold's recorder as well, and warn of it."""
    compiled: list[torch.fx.GraphModule] = []

    def backend(graph: torch.fx.GraphModule, _inputs: object) -> Any:
        compiled.append(graph)
        return graph

    inner = shaken(nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)))
    part: Any = torch.compile(inner, backend=backend)
    net = nn.Sequential(part, nn.ReLU()).eval()
    result = fold(net, SMALL)
    assert verdicts(result.plan) == {"0._orig_mod.1": "0._orig_mod.0"}
    assert not compiled
    assert not caplog.records
    assert_close(run(result.model, SMALL), run(net, SMALL))
    assert compiled


def test_a_wrapper_inside_stays() -> None:
    net = shaken(nn.Sequential(nn.DataParallel(nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))), nn.ReLU()))
    result = fold(net, SMALL)
    assert verdicts(result.plan) == {"0.module.1": "0.module.0"}
    assert type(result.model.get_submodule("0")) is nn.DataParallel


def test_an_example_larger_than_the_memory_is_refused() -> None:
    with pytest.raises(UsageError, match="no memory for an example input of 1x3x99999999x99999999"):
        fold(Net(), (InputSpec((1, 3, 99_999_999, 99_999_999), "float32"),))


@pytest.mark.parametrize("inputs", [[SMALL, ("text",)], SMALL.numpy(), "text"], ids=["a list", "an array", "a text"])
def test_what_is_no_input_is_refused(inputs: Any) -> None:
    with pytest.raises(UsageError, match="neither tensors nor shapes"):
        fold(Net(), inputs)
