"""Small PyTorch modules and their verdicts, refusals first; every result is compared with the original."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils import parametrizations, weight_norm
from torch_modules import (
    assert_close,
    assert_scale_matters,
    assert_survives_pickling,
    judged_fold,
    run,
    shaken,
    verdicts,
)

from bnfold import fold
from bnfold.core.reason import Reason
from bnfold.errors import BnfoldError, UsageError

IMAGE = torch.randn(2, 3, 9, 9, generator=torch.Generator().manual_seed(1))
ROWS = torch.randn(4, 6, generator=torch.Generator().manual_seed(2))


def layers(conv: nn.Module | None = None, bn: nn.Module | None = None) -> Any:
    """Conv, batch norm, ReLU, shaken."""
    net = nn.Sequential()
    net.add_module("conv", conv or nn.Conv2d(3, 4, 3))
    net.add_module("bn", bn or nn.BatchNorm2d(4))
    net.add_module("relu", nn.ReLU())
    shaken(net)
    return net


class Wired(nn.Module):
    """A conv and a batch norm, wired by a function."""

    def __init__(self, wire: Callable[[Any, torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.bn = nn.BatchNorm2d(3)
        self.wire = [wire]
        shaken(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.wire[0](self, x)


class Sneaky(nn.Conv2d):
    """A convolution whose forward is its own."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x).abs()


def with_hook(name: str) -> Any:
    net = layers()
    net.get_submodule(name).register_forward_hook(lambda *_: None)
    return net


def hook_on_a_block() -> nn.Module:
    net: Any = nn.Sequential(nn.Sequential(nn.Conv2d(3, 4, 3)), nn.BatchNorm2d(4))
    net[0].register_forward_hook(lambda *_: None)
    return shaken(net)


def keeps_a_feature() -> nn.Module:
    def wire(net: Any, x: torch.Tensor) -> Any:
        net.seen = [net.conv(x)]
        return net.bn(net.seen[0])

    return Wired(wire)


REFUSALS = [
    pytest.param(
        lambda: layers(bn=nn.BatchNorm2d(4, track_running_stats=False)),
        {"bn": "no-running-stats"},
        id="no running statistics",
    ),
    pytest.param(lambda: Wired(lambda net, x: net.bn(x)), {"bn": "no-linear-layer"}, id="nothing above"),
    pytest.param(
        lambda: Wired(lambda net, x: net.bn(net.conv(x).relu())), {"bn": "no-linear-layer"}, id="relu between"
    ),
    pytest.param(
        lambda: Wired(lambda net, x: net.bn(net.conv(x).relu_())), {"bn": "no-linear-layer"}, id="in-place relu"
    ),
    pytest.param(
        lambda: Wired(lambda net, x: net.bn(y := net.conv(x)) + y),
        {"bn": "fan-out"},
        id="the layer's output is read twice",
    ),
    pytest.param(
        lambda: Wired(lambda net, x: net.bn(y := net.conv(x)) + y.detach()),
        {"bn": "fan-out"},
        id="read through a detach",
    ),
    pytest.param(keeps_a_feature, {"bn": "fan-out"}, id="the module keeps the layer's output"),
    pytest.param(
        lambda: Wired(lambda net, x: torch.cat([y := net.conv(x), net.bn(y)])), {"bn": "fan-out"}, id="both in one cat"
    ),
    pytest.param(
        lambda: layers(conv=parametrizations.weight_norm(nn.Conv2d(3, 4, 3))),
        {"bn": "weight-not-constant"},
        id="weight norm",
    ),
    pytest.param(
        lambda: layers(conv=parametrizations.spectral_norm(nn.Conv2d(3, 4, 3))),
        {"bn": "weight-not-constant"},
        id="spectral norm",
    ),
    pytest.param(
        lambda: Wired(lambda net, x: net.bn(net.conv(net.conv(x)))),
        {"bn": "runs-more-than-once"},
        id="conv called twice",
    ),
    pytest.param(
        lambda: Wired(lambda net, x: net.bn(net.conv(x)) + net.bn(x)),
        {"bn": "runs-more-than-once"},
        id="batch norm called twice",
    ),
    pytest.param(lambda: with_hook("conv"), {"bn": "hooked"}, id="hook on the conv"),
    pytest.param(lambda: with_hook("bn"), {"bn": "hooked"}, id="hook on the batch norm"),
    pytest.param(hook_on_a_block, {"1": "fan-out"}, id="hook on a block between"),
    pytest.param(lambda: layers(conv=Sneaky(3, 4, 3)), {"bn": "no-linear-layer"}, id="a conv with its own forward"),
]


@pytest.mark.parametrize(("make", "expected"), REFUSALS)
def test_kept_and_right_all_the_same(make: Callable[[], nn.Module], expected: dict[str, str]) -> None:
    assert verdicts(judged_fold(make(), IMAGE).plan) == expected


def test_a_broken_channel_is_kept_and_named() -> None:
    net = layers()
    net.bn.running_var[2] = -1.0
    (keep,) = fold(net, IMAGE).plan.keeps
    assert keep.reason is Reason.NON_FINITE_PARAMETERS
    assert "channel 2 of 4" in keep.detail


def test_a_training_batch_norm_under_an_eval_root_is_kept_and_its_statistics_stay() -> None:
    net = layers()
    net.bn.train()
    before = net.bn.running_mean.clone()
    result = fold(net, IMAGE)
    assert verdicts(result.plan) == {"bn": "training-mode"}
    assert torch.equal(net.bn.running_mean, before)
    assert result.model.bn.training


def test_linear_on_three_axes_is_no_neighbour_of_a_batch_norm_of_the_same_size() -> None:
    net = shaken(nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)))
    assert verdicts(judged_fold(net, torch.randn(2, 3, 3)).plan) == {"1": "channel-mismatch"}


def test_tied_weights_are_kept() -> None:
    net: Any = nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 6))
    net[3].weight = net[0].weight
    assert verdicts(judged_fold(shaken(net), ROWS).plan) == {"1": "weight-shared"}


@pytest.mark.parametrize(
    "net",
    [
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.InstanceNorm2d(4, track_running_stats=True)),
        Wired(lambda net, x: functional.conv2d(x, net.bn(net.conv.weight))),
    ],
    ids=["instance norm", "a batch norm over weights"],
)
def test_no_batch_norm_of_ours(net: nn.Module) -> None:
    assert len(judged_fold(shaken(net), IMAGE).plan) == 0


FOLDS = [
    pytest.param(layers, IMAGE, {"bn": "conv"}, id="conv2d"),
    pytest.param(lambda: layers(conv=nn.Conv2d(3, 4, 3, bias=False)), IMAGE, {"bn": "conv"}, id="without bias"),
    pytest.param(
        lambda: layers(conv=nn.Conv2d(3, 6, 3, groups=3, padding="same"), bn=nn.BatchNorm2d(6)),
        IMAGE,
        {"bn": "conv"},
        id="depthwise",
    ),
    pytest.param(
        lambda: layers(conv=nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect")),
        IMAGE,
        {"bn": "conv"},
        id="reflect padding",
    ),
    pytest.param(lambda: layers(bn=nn.BatchNorm2d(4, affine=False)), IMAGE, {"bn": "conv"}, id="affine=False"),
    pytest.param(lambda: layers(bn=nn.BatchNorm2d(4, momentum=None)), IMAGE, {"bn": "conv"}, id="momentum=None"),
    pytest.param(lambda: layers(bn=nn.SyncBatchNorm(4)), IMAGE, {"bn": "conv"}, id="SyncBatchNorm"),
    pytest.param(lambda: layers(conv=nn.ConvTranspose2d(3, 4, 3, stride=2)), IMAGE, {"bn": "conv"}, id="transposed"),
    pytest.param(
        lambda: layers(conv=nn.ConvTranspose2d(3, 6, 3, groups=3), bn=nn.BatchNorm2d(6)),
        IMAGE,
        {"bn": "conv"},
        id="transposed in groups",
    ),
    pytest.param(
        lambda: shaken(nn.Sequential(nn.Conv1d(3, 4, 3), nn.BatchNorm1d(4))),
        torch.randn(2, 3, 9),
        {"1": "0"},
        id="conv1d",
    ),
    pytest.param(
        lambda: shaken(nn.Sequential(nn.Conv3d(3, 4, 2), nn.BatchNorm3d(4))),
        torch.randn(2, 3, 4, 4, 4),
        {"1": "0"},
        id="conv3d",
    ),
    pytest.param(
        lambda: shaken(nn.Sequential(nn.ConvTranspose1d(3, 4, 3), nn.BatchNorm1d(4))),
        torch.randn(2, 3, 9),
        {"1": "0"},
        id="transposed 1-d",
    ),
    pytest.param(
        lambda: shaken(nn.Sequential(nn.ConvTranspose3d(3, 4, 2), nn.BatchNorm3d(4))),
        torch.randn(2, 3, 4, 4, 4),
        {"1": "0"},
        id="transposed 3-d",
    ),
    pytest.param(lambda: shaken(nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5))), ROWS, {"1": "0"}, id="linear"),
    pytest.param(
        lambda: shaken(nn.Sequential(nn.Linear(6, 5, bias=False), nn.Dropout(0.5), nn.Identity(), nn.BatchNorm1d(5))),
        ROWS,
        {"3": "0"},
        id="linear, dropout, identity",
    ),
    pytest.param(
        lambda: shaken(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.BatchNorm2d(4))),
        IMAGE,
        {"1": "0", "2": "0"},
        id="twice",
    ),
    pytest.param(
        lambda: Wired(lambda net, x: net.bn(net.conv(x).add_(1))), IMAGE, {"bn": "conv"}, id="in-place add between"
    ),
    pytest.param(
        lambda: Wired(lambda net, x: net.bn(net.conv(x)).relu_() + torch.zeros_like(x)),
        IMAGE,
        {"bn": "conv"},
        id="in-place afterwards",
    ),
    pytest.param(
        lambda: Wired(lambda net, x: net.bn(y := net.conv(x)) * y.shape[0] + torch.ones_like(y)),
        IMAGE,
        {"bn": "conv"},
        id="reads the shape",
    ),
]


@pytest.mark.parametrize(("make", "x", "expected"), FOLDS)
def test_folded_exactly(make: Callable[[], nn.Module], x: torch.Tensor, expected: dict[str, str]) -> None:
    module = make()
    for bn in expected:
        assert_scale_matters(module, bn, x)
    result = judged_fold(module, x)
    assert verdicts(result.plan) == expected
    for bn in expected:
        assert type(result.model.get_submodule(bn)) is nn.Identity


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_other_dtypes_keep_their_type(dtype: torch.dtype) -> None:
    result = judged_fold(layers().to(dtype), IMAGE.to(dtype))
    assert {tensor.dtype for tensor in result.model.state_dict().values()} == {dtype}


def test_folded_values_are_the_float64_fold_rounded_once() -> None:
    net = layers()
    wide = {name: tensor.double().numpy() for name, tensor in net.state_dict().items()}
    folded = judged_fold(net, IMAGE).model
    scale = wide["bn.weight"] / np.sqrt(wide["bn.running_var"] + 1e-5)
    assert np.array_equal(
        folded.conv.weight.detach().numpy(), (wide["conv.weight"] * scale[:, None, None, None]).astype(np.float32)
    )
    expected = wide["conv.bias"] * scale + (wide["bn.bias"] - wide["bn.running_mean"] * scale)
    assert np.array_equal(folded.conv.bias.detach().numpy(), expected.astype(np.float32))


def test_names_order_flags_and_layout_of_the_rest_stay() -> None:
    net = layers(conv=nn.Conv2d(3, 4, 3, bias=False)).to(memory_format=torch.channels_last)
    net.conv.weight.requires_grad_(requires_grad=False)
    folded = judged_fold(net, IMAGE).model
    assert list(folded.state_dict()) == ["conv.weight", "conv.bias"]
    assert [name for name, _ in folded.named_children()] == ["conv", "bn", "relu"]
    assert not folded.conv.weight.requires_grad
    assert not folded.conv.bias.requires_grad
    assert folded.conv.weight.is_contiguous(memory_format=torch.channels_last)


def test_untouched_tensors_are_shared_unless_a_copy_is_asked_for() -> None:
    net: Any = shaken(nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Linear(5, 2)))
    assert fold(net, ROWS).model[2].weight is net[2].weight
    copied = fold(net, ROWS, copy=True).model[2].weight
    assert copied.data_ptr() != net[2].weight.data_ptr()
    assert torch.equal(copied, net[2].weight)


def test_a_root_in_training_mode_folds_as_in_inference_and_stays_in_training() -> None:
    net = layers().train()
    result = fold(net, IMAGE)
    assert verdicts(result.plan) == {"bn": "conv"}
    assert net.training
    assert net.bn.training
    assert result.model.training
    assert any("training mode" in warning for warning in result.warnings)
    assert net.bn.num_batches_tracked.item() == 0
    assert_close(run(result.model, IMAGE), run(net, IMAGE))


def test_what_is_folded_in_inference_mode_can_be_trained_afterwards() -> None:
    with torch.inference_mode():
        folded = fold(layers(conv=nn.Conv2d(3, 4, 3, bias=False)), IMAGE, copy=True).model
    for tensor in (folded.conv.weight, folded.conv.bias):
        assert not tensor.is_inference()
    net = layers(conv=nn.Conv2d(3, 4, 3, bias=False))
    with torch.inference_mode():
        folded = fold(net, IMAGE).model
    folded(IMAGE).sum().backward()
    assert folded.conv.weight.grad is not None


def test_a_module_that_was_made_in_inference_mode_folds() -> None:
    with torch.inference_mode():
        net = layers()
    result = fold(net, IMAGE)
    assert verdicts(result.plan) == {"bn": "conv"}
    assert_close(run(result.model, IMAGE), run(net, IMAGE))


def test_the_random_state_stays() -> None:
    net = Wired(lambda net, x: net.bn(net.conv(x)) + torch.rand_like(x))
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    fold(net, IMAGE)
    assert torch.equal(torch.rand(1), expected)


def test_the_result_survives_pickling() -> None:
    assert_survives_pickling(fold(layers(), IMAGE).model, IMAGE)


def test_hooks_elsewhere_stay() -> None:
    net = layers()
    seen = []
    net.relu.register_forward_hook(lambda *_: seen.append(1))
    result = judged_fold(net, IMAGE)
    assert verdicts(result.plan) == {"bn": "conv"}
    seen.clear()
    run(result.model, IMAGE)
    assert seen == [1]


def test_a_batch_norm_that_never_runs_is_mentioned() -> None:
    net = Wired(lambda net, x: net.conv(x))
    result = fold(net, IMAGE)
    assert len(result.plan) == 0
    assert any("never ran" in warning and "bn" in warning for warning in result.warnings)


def test_keyword_inputs_and_dict_outputs() -> None:
    class Keyword(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.bn = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
            shaken(self)

        def forward(self, *, image: torch.Tensor, gain: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"y": self.bn(self.conv(image)) * gain}

    net = Keyword()
    feeds = {"image": IMAGE, "gain": torch.tensor(2.0)}
    result = fold(net, feeds)
    assert verdicts(result.plan) == {"bn": "conv"}
    with torch.inference_mode():
        assert_close(result.model(**feeds)["y"], net(**feeds)["y"])


def test_inputs_are_inferred_from_the_first_layer() -> None:
    assert verdicts(fold(layers()).plan) == {"bn": "conv"}
    assert verdicts(fold(shaken(nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5)))).plan) == {"1": "0"}


def test_without_inputs_that_anything_tells_the_error_says_what_to_give() -> None:
    with pytest.raises(UsageError, match="--input"):
        fold(shaken(nn.Sequential(nn.Conv1d(3, 4, 3), nn.BatchNorm1d(4))))


def test_a_model_that_fails_on_its_inputs_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="fails on the example inputs"):
        fold(layers(), torch.randn(2, 5, 9, 9))


def test_something_else_than_a_model_is_refused() -> None:
    with pytest.raises(BnfoldError, match="is no model"):
        fold(42)


def test_the_old_weight_norm_is_kept_as_not_constant() -> None:
    with pytest.warns(FutureWarning):
        conv = weight_norm(nn.Conv2d(3, 4, 3))
    assert verdicts(fold(layers(conv=conv), IMAGE).plan) == {"bn": "weight-not-constant"}
