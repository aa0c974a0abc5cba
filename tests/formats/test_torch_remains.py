"""What is left of a batch norm that folds: nothing, its activation, or itself with values that change nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch_modules import assert_close, assert_survives_pickling, judged_fold, run, shaken, verdicts

from bnfold import fold
from bnfold.core.reason import Reason

IMAGE = torch.randn(2, 3, 7, 7, generator=torch.Generator().manual_seed(3))
STATE = ("weight", "bias", "running_mean", "running_var")


def net(conv: nn.Module | None = None, bn: nn.Module | None = None) -> Any:
    """Conv, batch norm, ReLU."""
    torch.manual_seed(31)
    module = nn.Sequential()
    module.add_module("conv", conv or nn.Conv2d(3, 4, 3))
    module.add_module("bn", bn or nn.BatchNorm2d(4))
    module.add_module("relu", nn.ReLU())
    return shaken(module)


class Own(nn.Module):
    """Tensors of its own, and a function that runs them."""

    def __init__(self, code: Callable[[Any, torch.Tensor], torch.Tensor], *, features: int = 4) -> None:
        super().__init__()
        self.code = [code]
        generator = torch.Generator().manual_seed(5)
        self.conv = nn.Conv2d(3, features, 3)
        values = torch.rand(4, features, generator=generator) * 2 + 0.5
        self.scale, self.shift = nn.Parameter(values[0].clone()), nn.Parameter(values[1].clone())
        for name, row in (("mean", values[2]), ("variance", values[3])):
            self.register_buffer(name, row.clone())
        self.kernel = nn.Parameter(torch.randn(features, 3, 3, 3, generator=generator))
        self.matrix = nn.Parameter(torch.randn(7, features, generator=generator))
        self.offset = nn.Parameter(torch.randn(features, generator=generator))
        self.eval()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.code[0](self, x)


def spread(values: torch.Tensor) -> torch.Tensor:
    return values.view(1, -1, 1, 1)


def by_operator(m: Any, x: torch.Tensor, **options: Any) -> torch.Tensor:
    return functional.batch_norm(x, m.mean, m.variance, m.scale, m.shift, **options)


def written_out(m: Any, x: torch.Tensor) -> torch.Tensor:
    scale = m.scale * (m.variance + 1e-5).rsqrt()
    return x * spread(scale) + spread(m.shift - m.mean * scale)


def step_by_step(m: Any, x: torch.Tensor) -> torch.Tensor:
    x = (x - spread(m.mean)) / torch.sqrt(spread(m.variance) + 1e-3)
    return spread(m.scale) * x + spread(m.shift)


def in_place(m: Any, x: torch.Tensor) -> torch.Tensor:
    return x.sub_(spread(m.mean)).div_((spread(m.variance) + 0.5).sqrt()).mul_(spread(m.scale)).add_(spread(m.shift))


# Frozen batch norms: buffers alone, and nothing else in them.


class Frozen(nn.Module):
    """torchvision's FrozenBatchNorm2d: buffers, and arithmetic instead of the operator."""

    def __init__(self, features: int) -> None:
        super().__init__()
        for name in STATE:
            self.register_buffer(name, torch.rand(features) + 0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weight, bias, mean, variance = (spread(getattr(self, name)) for name in STATE)
        scale = weight * (variance + 1e-5).rsqrt()
        return x * scale + (bias - mean * scale)


class FrozenByOperator(Frozen):
    """detectron's, which calls F.batch_norm where no gradient is asked for."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weight, bias, mean, variance = (getattr(self, name) for name in STATE)
        return functional.batch_norm(x, mean, variance, weight, bias, training=False, eps=1e-5)


class FrozenWithParts(Frozen):
    """As timm's FrozenBatchNormAct2d."""

    def __init__(self, features: int) -> None:
        super().__init__(features)
        self.drop, self.act = nn.Dropout(0.1), nn.LeakyReLU(inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.act(self.drop(super().forward(x)))  # type: ignore[no-any-return]


class FrozenWithMore(Frozen):
    """A clamp inside, which no example input reaches."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x).clamp(max=1e6)


# Subclasses of batch norms.


class WithParts(nn.BatchNorm2d):
    """As timm's BatchNormAct2d: a dropout and an activation that the batch norm runs itself."""

    def __init__(self, features: int, act: nn.Module | None = None) -> None:
        super().__init__(features)
        self.drop = nn.Identity()
        self.act = act or nn.ReLU(inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = functional.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, self.training)
        return self.act(self.drop(x))  # type: ignore[no-any-return]


class PartsFirst(WithParts):
    """The activation comes before the normalisation."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.BatchNorm2d.forward(self, self.act(x))


class PartsAndMore(WithParts):
    """One more operation behind the activation."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) * 2


class NormAndActivation(nn.BatchNorm2d):
    """An activation that is no module."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.relu(super().forward(x))


class PlusOne(nn.BatchNorm2d):
    """γ is stored without its 1."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.batch_norm(x, self.running_mean, self.running_var, self.weight + 1, self.bias)


def with_hook(bn: nn.Module) -> nn.Module:
    bn.register_forward_hook(lambda *_: None)
    return bn


def run_twice(m: Any, x: torch.Tensor) -> torch.Tensor:
    return written_out(m, m.conv(x)) + written_out(m, m.conv(x * 2))


def unsaved(code: Callable[[Any, torch.Tensor], torch.Tensor]) -> nn.Module:
    """The mean is a buffer that the module makes anew, and that no checkpoint holds."""
    module: Any = Own(code)
    module.register_buffer("mean", module.mean, persistent=False)
    return module  # type: ignore[no-any-return]


REFUSALS = [
    pytest.param(lambda: net(bn=with_hook(Frozen(4))), "fan-out", id="a hook on a frozen batch norm"),
    pytest.param(lambda: net(bn=with_hook(WithParts(4))), "hooked", id="a hook on one with parts"),
    pytest.param(lambda: net(bn=PartsFirst(4)), "no-linear-layer", id="the activation comes first"),
    pytest.param(lambda: net(bn=PlusOne(4)), "hooked", id="γ is computed in the forward method"),
    pytest.param(lambda: Own(lambda m, x: by_operator(m, m.conv(x), training=True)), "training-mode", id="training"),
    pytest.param(
        lambda: Own(lambda m, x: functional.batch_norm(m.conv(x), None, None, m.scale, m.shift, training=True)),
        "no-running-stats",
        id="the statistics of the batch",
    ),
    pytest.param(
        lambda: Own(lambda m, x: functional.batch_norm(m.conv(x), m.mean, m.variance, eps=9.7)),
        "hooked",
        id="no values can be neutral",
    ),
    pytest.param(
        lambda: Own(lambda m, x: by_operator(m, m.conv(x)) + m.mean.sum()), "hooked", id="μ is read by other code"
    ),
    pytest.param(
        lambda: Own(lambda m, x: written_out(m, m.conv(x)) * (x.mean() * m.scale.sum()).sin()),
        "hooked",
        id="γ is read by other code",
    ),
    pytest.param(
        lambda: Own(lambda m, x: by_operator(m, functional.conv2d(x, m.kernel))), "hooked", id="conv2d without a bias"
    ),
    pytest.param(
        lambda: Own(lambda m, x: by_operator(m, functional.conv2d(x, m.kernel * 2, m.offset))),
        "weight-not-constant",
        id="conv2d with a computed weight",
    ),
    pytest.param(lambda: Own(run_twice), "hooked", id="a conv and arithmetic that run twice"),
    pytest.param(
        lambda: Own(lambda m, x: written_out(m, m.conv(x).relu())), "no-linear-layer", id="arithmetic behind a ReLU"
    ),
    pytest.param(
        lambda: Own(lambda m, x: m.conv(x) * spread(m.matrix[2]) + spread(m.shift)), "hooked", id="a row of a table"
    ),
    pytest.param(
        lambda: Own(lambda m, x: by_operator(m, functional.conv2d(x, m.kernel, m.mean))), "hooked", id="the bias is μ"
    ),
    pytest.param(
        lambda: Own(lambda m, x: functional.batch_norm(m.conv(x), m.mean, m.variance, m.variance, m.shift)),
        "hooked",
        id="γ is σ²",
    ),
    pytest.param(lambda: unsaved(lambda m, x: by_operator(m, m.conv(x))), "hooked", id="μ is not saved"),
    pytest.param(lambda: unsaved(lambda m, x: written_out(m, m.conv(x))), "hooked", id="μ of arithmetic is not saved"),
]


@pytest.mark.parametrize(("make", "slug"), REFUSALS)
def test_kept(make: Callable[[], nn.Module], slug: str) -> None:
    module = make()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    result = fold(module, IMAGE)
    assert set(verdicts(result.plan).values()) == {slug}
    assert all(torch.equal(tensor, before[name]) for name, tensor in result.model.state_dict().items())
    assert_close(run(result.model, IMAGE), run(module, IMAGE))


@pytest.mark.parametrize(
    "code",
    [
        pytest.param(lambda m, x: m.conv(x) * spread(m.scale + torch.rand_like(m.scale)) + 1, id="a random scale"),
        pytest.param(lambda m, x: m.conv(x) * spread(m.mean.add_(1)) + spread(m.shift), id="a scale that grows"),
        pytest.param(
            lambda m, x: functional.conv2d(
                x, (m.kernel - m.mean.view(4, 1, 1, 1)) / m.variance.sqrt().view(4, 1, 1, 1)
            ),
            id="a weight is standardised",
        ),
        pytest.param(lambda m, x: m.conv(x) * m.scale.view(1, 4, 1) + m.shift.view(1, 4, 1), id="not the channels"),
    ],
)
def test_no_batch_norm_of_ours(code: Callable[[Any, torch.Tensor], torch.Tensor]) -> None:
    module = Own(code)
    wide = torch.randn(2, 3, 6, 6)
    plan = fold(module, wide).plan
    assert [verdict.reason for verdict in plan.keeps] in ([], [Reason.CHANNEL_MISMATCH])
    assert not plan.folds


GONE = [
    pytest.param(lambda: net(bn=Frozen(4)), nn.Identity, id="torchvision's frozen batch norm"),
    pytest.param(lambda: net(bn=FrozenByOperator(4)), nn.Identity, id="detectron's frozen batch norm"),
    pytest.param(lambda: net(bn=FrozenWithParts(4)), nn.Sequential, id="timm's frozen one"),
    pytest.param(lambda: net(bn=WithParts(4)), nn.Sequential, id="timm's, activation in place"),
    pytest.param(lambda: net(bn=WithParts(4, nn.PReLU(4))), nn.Sequential, id="timm's, activation with a weight"),
    pytest.param(lambda: net(bn=WithParts(4, nn.Identity())), nn.Sequential, id="timm's, no activation"),
]


@pytest.mark.parametrize(("make", "rest"), GONE)
def test_gone(make: Callable[[], nn.Module], rest: type[nn.Module]) -> None:
    module = make()
    result = judged_fold(module, IMAGE)
    assert verdicts(result.plan) == {"bn": "conv"}
    assert not result.plan.folds[0].warnings
    bn = result.model.get_submodule("bn")
    assert type(bn) is rest
    assert [name for name, _ in bn.named_children()] == [
        name for name, _ in module.get_submodule("bn").named_children()
    ]
    assert not {"bn.weight", "bn.running_var"} & result.model.state_dict().keys()
    assert_survives_pickling(result.model, IMAGE)


NEUTRALISED = [
    pytest.param(lambda: net(bn=NormAndActivation(4)), "conv", id="an activation inside"),
    pytest.param(lambda: net(bn=PartsAndMore(4)), "conv", id="parts, and more"),
    pytest.param(lambda: net(bn=FrozenWithMore(4)), "conv", id="frozen, and more"),
    pytest.param(lambda: Own(lambda m, x: by_operator(m, m.conv(x))), "conv", id="F.batch_norm"),
    pytest.param(lambda: Own(lambda m, x: by_operator(m, m.conv(x), eps=0.8)), "conv", id="F.batch_norm, ε = 0.8"),
    pytest.param(lambda: Own(lambda m, x: by_operator(m, m.conv(x), eps=9.7)), "conv", id="F.batch_norm, ε = 9.7"),
    pytest.param(
        lambda: Own(lambda m, x: functional.batch_norm(m.conv(x), m.mean, m.variance)), "conv", id="no γ and β"
    ),
    pytest.param(
        lambda: Own(lambda m, x: by_operator(m, functional.conv2d(x, m.kernel, m.offset))), "conv2d", id="F.conv2d"
    ),
    pytest.param(
        lambda: Own(lambda m, x: by_operator(m, functional.conv2d(x, m.kernel, m.conv.bias))),
        "conv2d",
        id="F.conv2d with a bias from elsewhere",
    ),
    pytest.param(
        lambda: Own(lambda m, x: by_operator(m, torch.addmm(m.offset, x.flatten(0, 2), m.matrix))), "addmm", id="addmm"
    ),
    pytest.param(lambda: Own(lambda m, x: written_out(m, m.conv(x))), "conv", id="arithmetic"),
    pytest.param(lambda: Own(lambda m, x: step_by_step(m, m.conv(x))), "conv", id="arithmetic step by step"),
    pytest.param(lambda: Own(lambda m, x: in_place(m, m.conv(x))), "conv", id="arithmetic in place"),
    pytest.param(
        lambda: Own(lambda m, x: m.conv(x) * spread(m.scale) + spread(m.shift)), "conv", id="a scale and a shift"
    ),
    pytest.param(lambda: Own(lambda m, x: by_operator(m, m.conv(x) * -0.5)), "conv", id="behind a number"),
    pytest.param(
        lambda: Own(lambda m, x: by_operator(m, m.conv(x) * spread(m.offset))), "conv", id="behind a stored scale"
    ),
    pytest.param(lambda: Own(lambda m, x: written_out(m, m.conv(x)).relu().mul_(2)), "conv", id="a factor afterwards"),
]


@pytest.mark.parametrize(("make", "into"), NEUTRALISED)
def test_neutralised_with_a_warning(make: Callable[[], nn.Module], into: str) -> None:
    module = make()
    result = judged_fold(module, IMAGE)
    assert list(verdicts(result.plan).values()) == [into]
    assert any(Reason.NEUTRALISED_NOT_REMOVED.slug in warning for warning in result.plan.folds[0].warnings)
    assert [type(part) for part in result.model.modules()] == [type(part) for part in module.modules()]
    assert result.model.state_dict().keys() == module.state_dict().keys()
    again = judged_fold(result.model, IMAGE)
    assert list(verdicts(again.plan).values()) == [""]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize(
    "code",
    [lambda m, x: by_operator(m, m.conv(x)), lambda m, x: written_out(m, m.conv(x))],
    ids=["operator", "written"],
)
def test_what_is_neutralised_changes_not_a_bit(
    code: Callable[[Any, torch.Tensor], torch.Tensor], dtype: torch.dtype
) -> None:
    module = Own(code).to(dtype)
    x = IMAGE.to(dtype)
    folded = judged_fold(module, x).model
    with torch.inference_mode():
        assert torch.equal(run(folded, x), folded.conv(x))


def test_batch_norms_in_one_module_of_code_are_told_apart_by_their_tensors() -> None:
    def code(m: Any, x: torch.Tensor) -> torch.Tensor:
        y = functional.batch_norm(m.conv(x), m.mean, m.variance)
        return functional.conv2d(y, m.kernel[:, :, :1, :1].repeat(1, 2, 1, 1)[:, :4]) * spread(m.scale) + spread(
            m.shift
        )

    plan = judged_fold(Own(code), IMAGE).plan
    assert verdicts(plan) == {"mean": "conv", "scale": "weight-not-constant"}


def test_a_neutralised_subclass_survives_pickling() -> None:
    assert_survives_pickling(fold(net(bn=NormAndActivation(4)), IMAGE).model, IMAGE)


def test_tensors_that_code_holds_in_a_list_are_the_folded_ones() -> None:
    module: Any = Own(lambda m, x: by_operator(m, functional.conv2d(x, m.held[0], m.held[1])))
    module.held = [module.kernel, module.offset]
    result = judged_fold(module, IMAGE)
    assert result.model.held[0] is result.model.kernel
    assert module.held[0] is module.kernel
