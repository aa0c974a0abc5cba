"""Batch norms and layers of every kind that PyTorch has, and numbers at the edges: refusals first."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils import prune
from torch_modules import assert_close, judged_fold, run, shaken, verdicts

from bnfold import fold
from bnfold.core.reason import Reason
from bnfold.core.verdict import Fold

IMAGE = torch.randn(2, 3, 7, 7, generator=torch.Generator().manual_seed(3))


def net(conv: nn.Module | None = None, bn: nn.Module | None = None) -> Any:
    """Conv, batch norm, ReLU."""
    torch.manual_seed(31)
    module = nn.Sequential()
    module.add_module("conv", conv or nn.Conv2d(3, 4, 3))
    module.add_module("bn", bn or nn.BatchNorm2d(4))
    module.add_module("relu", nn.ReLU())
    return shaken(module)


class Training(nn.BatchNorm2d):
    """A batch norm that uses the batch's statistics whatever its mode."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, training=True)


def pruned(*, for_good: bool) -> nn.Module:
    conv = nn.Conv2d(3, 4, 3)
    prune.l1_unstructured(conv, "weight", 0.5)  # type: ignore[no-untyped-call]
    if for_good:
        prune.remove(conv, "weight")  # type: ignore[no-untyped-call]
    return conv


def with_parameter(name: str, value: float) -> Any:
    module = net()
    with torch.no_grad():
        getattr(module.bn, name)[1] = value
    return module


def beyond_half() -> nn.Module:
    """Every number fits float16; their product does not."""
    module = with_parameter("weight", 3e4)
    module.bn.running_var[1] = 1e-4
    return module.half()  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("make", "slug"),
    [
        pytest.param(lambda: net(bn=Training(4)), "training-mode", id="F.batch_norm(training=True)"),
        pytest.param(lambda: net(conv=pruned(for_good=False)), "weight-not-constant", id="pruning"),
        pytest.param(lambda: with_parameter("running_mean", float("nan")), "non-finite-parameters", id="NaN in μ"),
        pytest.param(lambda: with_parameter("weight", float("inf")), "non-finite-parameters", id="Inf in γ"),
        pytest.param(lambda: with_parameter("running_var", -2e-5), "non-finite-parameters", id="σ² + ε below zero"),
        pytest.param(beyond_half, "dtype-overflow", id="beyond float16"),
    ],
)
def test_kept(make: Callable[[], nn.Module], slug: str) -> None:
    module = make()
    x = IMAGE.to(next(module.parameters()).dtype)
    result = fold(module, x)
    assert list(verdicts(result.plan).values()) == [slug]
    assert torch.equal(run(result.model, x).nan_to_num(), run(module, x).nan_to_num())


ao: Any = torch.ao.quantization  # deprecated, untyped, and what older checkpoints hold
DENSE = torch.randn(4, 3, generator=torch.Generator().manual_seed(4))


class Stubbed(nn.Module):
    """A network with marks for the quantiser around its first half."""

    def __init__(self) -> None:
        super().__init__()
        self.quant, self.dequant = ao.QuantStub(), ao.DeQuantStub()
        self.conv, self.bn, self.relu = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()
        self.conv2, self.bn2 = nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4)
        self.conv3, self.bn3 = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.relu(self.bn(self.conv(self.quant(x))))
        return self.bn3(self.conv3(self.bn2(self.dequant(self.conv2(x)))))  # type: ignore[no-any-return]


def stubbed(*, in_training: bool = False) -> Any:
    """Configured: the second half stays as it is."""
    torch.manual_seed(5)
    module: Any = shaken(Stubbed()).train(in_training)
    module.qconfig = ao.get_default_qat_qconfig("x86") if in_training else ao.get_default_qconfig("x86")
    module.bn2.qconfig = module.conv3.qconfig = module.bn3.qconfig = None
    return module


def observed(module: Any) -> Any:
    """Prepared for quantisation, and seen to run once; in inference mode."""
    prepared = (ao.prepare_qat if module.training else ao.prepare)(module)
    prepared(IMAGE)
    return prepared.eval()


def fused_for_training() -> Any:
    return ao.fuse_modules_qat(stubbed(in_training=True), [["conv", "bn", "relu"]])


def settled(module: nn.Module) -> nn.Module:
    """Without watching what runs any further, so that it computes the same each time."""
    return module.apply(ao.disable_observer)


BEHIND = {"bn2": "conv3", "bn3": "conv3"}


@pytest.mark.parametrize(
    ("make", "wanted"),
    [
        pytest.param(
            lambda: ao.quantize_dynamic(shaken(nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5))), {nn.Linear}),
            {"1": "no-linear-layer"},
            id="a layer that is quantised as it runs",
        ),
        pytest.param(lambda: ao.convert(observed(stubbed())), {"bn": "quantised", **BEHIND}, id="quantised"),
        pytest.param(lambda: settled(observed(stubbed())), {"bn": "hooked", **BEHIND}, id="observed"),
        pytest.param(
            lambda: settled(observed(stubbed(in_training=True))), {"bn": "hooked", **BEHIND}, id="trained for it"
        ),
        pytest.param(
            lambda: settled(observed(fused_for_training())),
            {"conv.bias": "hooked", "conv.bn": "hooked", **BEHIND},
            id="trained for it, and fused",
        ),
        pytest.param(lambda: ao.convert(observed(fused_for_training())), BEHIND, id="trained for it, fused, quantised"),
        pytest.param(
            lambda: settled(observed(shaken(nn.Sequential(nn.Conv2d(3, 4, 3), ao.FakeQuantize(), nn.BatchNorm2d(4))))),
            {"2": "no-linear-layer"},
            id="rounded on the way",
        ),
    ],
)
@pytest.mark.filterwarnings("ignore")  # of the quantiser: see above
def test_what_is_quantised_or_will_be_stays(make: Callable[[], nn.Module], wanted: dict[str, str]) -> None:
    module = make()
    x = DENSE if len(wanted) == 1 and "1" in wanted else IMAGE
    expected = run(module, x)
    result = fold(module, x)
    assert verdicts(result.plan) == wanted
    assert_close(run(result.model, x), expected)
    assert torch.equal(run(module, x), expected)


@pytest.mark.filterwarnings("ignore")  # of the quantiser: see above
def test_a_quantised_batch_norm_says_what_to_do_first() -> None:
    (keep, *_) = fold(ao.convert(observed(stubbed())), IMAGE).plan.keeps
    assert keep.reason is Reason.QUANTISED
    assert "quantise what comes out" in keep.reason.remedy


@pytest.mark.parametrize(
    ("name", "value"),
    [("weight", 0.0), ("weight", -2.0), ("running_var", 0.0), ("running_var", 1e-14), ("running_mean", 1e4)],
)
def test_odd_numbers_are_legal(name: str, value: float) -> None:
    assert verdicts(judged_fold(with_parameter(name, value), IMAGE).plan) == {"bn": "conv"}


@pytest.mark.parametrize("epsilon", [0.0, 1e-12, 0.8])
def test_every_epsilon_is_taken_as_it_is(epsilon: float) -> None:
    assert verdicts(judged_fold(net(bn=nn.BatchNorm2d(4, eps=epsilon)), IMAGE).plan) == {"bn": "conv"}


def test_a_scale_far_from_one_folds_with_a_warning() -> None:
    result = fold(with_parameter("weight", 1e6), IMAGE)
    (verdict,) = result.plan
    assert isinstance(verdict, Fold)
    assert any("channel 1" in warning for warning in verdict.warnings)


def test_a_nan_in_a_weight_stays_in_its_channel() -> None:
    module = net()
    with torch.no_grad():
        module.conv.weight[2] = float("nan")
    folded = fold(module, IMAGE).model
    assert folded.conv.weight.isnan().flatten(1).any(1).tolist() == [False, False, True, False]
    assert not folded.conv.bias.isnan().any()


def test_pruning_that_was_made_permanent_is_a_weight_like_any_other() -> None:
    assert verdicts(judged_fold(net(conv=pruned(for_good=True)), IMAGE).plan) == {"bn": "conv"}


@pytest.mark.parametrize("mode", ["reflect", "circular", "replicate"])
def test_the_padding_mode_stays(mode: str) -> None:
    conv = nn.Conv2d(3, 4, 3, padding=1, padding_mode=mode)  # type: ignore[arg-type]
    result = judged_fold(net(conv=conv), IMAGE)
    assert verdicts(result.plan) == {"bn": "conv"}
    assert result.model.conv.padding_mode == mode


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_a_narrow_layer_with_a_wide_batch_norm_stays_narrow(dtype: torch.dtype) -> None:
    module = net()
    module.conv.to(dtype)
    result = judged_fold(module, IMAGE.to(dtype))
    assert verdicts(result.plan) == {"bn": "conv"}
    assert {tensor.dtype for tensor in result.model.state_dict().values()} == {dtype}


class Backwards(nn.Module):
    """Declared last to first, run first to last."""

    def __init__(self) -> None:
        super().__init__()
        self.bn2, self.conv2 = nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3)
        self.bn1, self.conv1 = nn.BatchNorm2d(4), nn.Conv2d(3, 4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))  # type: ignore[no-any-return]


def test_the_order_of_running_counts_and_not_that_of_declaring() -> None:
    result = judged_fold(shaken(Backwards()), IMAGE)
    assert list(verdicts(result.plan).items()) == [("bn1", "conv1"), ("bn2", "conv2")]


class LyingNames(nn.Module):
    """A ReLU stands between what the names say belongs together."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv1_bn = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv1_bn(torch.relu(self.conv1(x)))  # type: ignore[no-any-return]


def test_names_lie_and_the_run_decides() -> None:
    assert verdicts(judged_fold(shaken(LyingNames()), IMAGE).plan) == {"conv1_bn": "no-linear-layer"}


@pytest.mark.parametrize("trained", [False, True])
def test_a_module_in_training_mode_folds_as_it_infers(trained: bool) -> None:  # noqa: FBT001 - a table's column
    module = net().train(trained)
    module.bn.momentum = None  # a cumulative average
    result = fold(module, IMAGE)
    assert verdicts(result.plan) == {"bn": "conv"}
    assert_close(run(result.model, IMAGE), run(module, IMAGE))


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_batch_norms_of_every_rank(rank: int) -> None:
    convs, bns = (nn.Conv1d, nn.Conv2d, nn.Conv3d), (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
    module = shaken(nn.Sequential(convs[rank - 1](3, 4, 2), bns[rank - 1](4)))
    assert verdicts(judged_fold(module, torch.randn(2, 3, *[4] * rank)).plan) == {"1": "0"}


def test_a_conv_without_a_batch_axis_has_its_channels_in_front() -> None:
    """(C, L) read as (N, C): the sizes are equal, the axes are not."""
    module = shaken(nn.Sequential(nn.Conv1d(3, 4, 1), nn.BatchNorm1d(4)))
    assert verdicts(judged_fold(module, torch.randn(3, 4)).plan) == {"1": "channel-mismatch"}
