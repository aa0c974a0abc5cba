"""Small modules with batch norms far from identity, and the judge of what a fold made of them."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from bnfold import fold
from bnfold.api import FoldResult
from bnfold.core.verdict import Fold, Plan

Wire = Callable[[Any, torch.Tensor], Any]

TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 2e-2, torch.bfloat16: 5e-2}


def shaken(module: nn.Module, seed: int = 0) -> nn.Module:
    """The module in inference mode, its batch norms with statistics and parameters far from identity."""
    generator = torch.Generator().manual_seed(seed)
    for part in module.modules():
        if not isinstance(part, nn.modules.batchnorm._BatchNorm):
            continue
        if part.running_mean is not None and part.running_var is not None:
            part.running_mean.copy_(torch.randn(part.num_features, generator=generator) * 2)
            part.running_var.copy_(torch.rand(part.num_features, generator=generator) * 5 + 0.1)
        if part.affine:
            with torch.no_grad():
                part.weight.copy_(torch.randn(part.num_features, generator=generator) + 2)
                part.bias.copy_(torch.randn(part.num_features, generator=generator) * 2)
    return module.eval()


class Wired(nn.Module):
    """A conv and a batch norm, wired by a function."""

    def __init__(self, wire: Wire, conv: nn.Module | None = None, bn: nn.Module | None = None) -> None:
        super().__init__()
        self.conv = conv or nn.Conv2d(3, 3, 3, padding=1)
        self.bn = bn or nn.BatchNorm2d(3)
        self.wire = [wire]
        shaken(self)

    def forward(self, x: torch.Tensor) -> Any:
        return self.wire[0](self, x)


def plain(net: Any, x: torch.Tensor) -> torch.Tensor:
    result: torch.Tensor = net.bn(net.conv(x))
    return result


class Doubling(nn.Parameter):
    """A parameter with which convolutions give twice as much."""

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = super().__torch_function__(func, types, args, kwargs or {})  # type: ignore[no-untyped-call]  # torch has no types here
        return result * 2 if func is functional.conv2d else result


def verdicts(plan: Plan) -> dict[str, str]:
    """By batch norm: the layers it folds into, or the reason's slug."""
    return {
        verdict.bn.label: ",".join(node.label for node in verdict.into)
        if isinstance(verdict, Fold)
        else verdict.reason.slug
        for verdict in plan
    }


def judged_fold(module: nn.Module, x: torch.Tensor, **options: Any) -> FoldResult:
    """Fold, and check everything that must hold whatever the verdicts are.

    The same outputs on an input other than the recorded one; the given module, its mode and its outputs unchanged;
    the result survives copying and a state_dict round trip, and pickling where the given module does.
    """
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    modes = [part.training for part in module.modules()]
    fresh = torch.randn(x.shape, generator=torch.Generator().manual_seed(99)).to(x.dtype)
    expected = run(module, fresh)
    result = fold(module, x, **options)
    actual = run(result.model, fresh)
    assert_close(actual, expected)
    assert torch.equal(run(module, fresh), expected)
    assert [part.training for part in module.modules()] == modes
    assert module.state_dict().keys() == before.keys()
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())
    assert not any(type(part).__module__.startswith("bnfold") for part in result.model.modules())
    assert torch.equal(run(copy.deepcopy(result.model), fresh), actual)
    result.model.load_state_dict(copy.deepcopy(result.model.state_dict()))
    assert torch.equal(run(result.model, fresh), actual)
    if is_picklable(module):
        assert_survives_pickling(result.model, fresh)
    return result


def is_picklable(module: nn.Module) -> bool:
    """Whether the module that was given survives pickling: many of the tests' hold functions that do not."""
    try:
        pickle.dumps(module)
    except (AttributeError, RuntimeError, TypeError, pickle.PicklingError):  # RuntimeError: parametrized modules
        return False
    return True


def assert_survives_pickling(module: nn.Module, x: torch.Tensor) -> None:
    stream = io.BytesIO()
    torch.save(module, stream)
    stream.seek(0)
    assert torch.equal(run(torch.load(stream, weights_only=False), x), run(module, x))


def run(module: nn.Module, x: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        was_training = module.training
        output = (copy.deepcopy(module).eval() if was_training else module)(x)
    assert isinstance(output, torch.Tensor)
    return output


def assert_close(actual: torch.Tensor, expected: torch.Tensor) -> None:
    """Relative to the largest output; an output of zeros proves nothing."""
    assert actual.dtype == expected.dtype
    assert actual.shape == expected.shape
    scale = expected.abs().max().item()
    assert scale > 0
    assert (actual - expected).abs().max().item() <= TOLERANCE[expected.dtype] * scale


def assert_scale_matters(module: nn.Module, bn: str, x: torch.Tensor) -> None:
    """The output moves when the batch norm's γ does; otherwise a comparison says nothing about it."""
    changed = copy.deepcopy(module)
    part = changed.get_submodule(bn)
    assert isinstance(part, nn.modules.batchnorm._BatchNorm)
    if part.affine:
        part.weight.data *= 1.1
    else:
        assert part.running_var is not None
        part.running_var *= 1.1
    assert not torch.equal(run(module, x), run(changed, x))
