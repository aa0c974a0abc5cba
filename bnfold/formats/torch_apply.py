"""A plan becomes a new module tree: the user's classes and control flow, with new weights and without batch norms.

What changed in the structure is small enough to write down (``Structure``), so that a checkpoint of the folded module
can be loaded into a fresh one.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from bnfold.core.graph import GraphView, OpKind
from bnfold.core.kernel import kernel_of, layer_constants
from bnfold.core.pointwise import scale_and_shift
from bnfold.core.verdict import Edit, Plan
from bnfold.errors import InputError, InternalError
from bnfold.formats.torch_capture import Capture, Inputs, output_tensors, run, structural_copy

SELF_CHECK_TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-3}
"""How far the folded module's outputs may be from the recorded ones, relative to the largest: a net for mistakes of
bnfold's own, wide enough for rounding in deep networks. Half precision gets ``HALF_TOLERANCE``."""
HALF_TOLERANCE = 0.1


@dataclass(frozen=True)
class Structure:
    """How a folded module differs from a fresh one: batch norms that became Identity, layers that gained a bias."""

    identities: tuple[str, ...] = ()
    biases: tuple[str, ...] = ()

    def to_json(self) -> str:
        """As it stands in a checkpoint's metadata."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Structure:
        """Raises InputError where ``text`` is not what ``to_json`` writes."""
        try:
            plain = json.loads(text)
            return cls(tuple(map(str, plain["identities"])), tuple(map(str, plain["biases"])))
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(
                "the checkpoint's record of what was folded is corrupt", remedy="Convert again."
            ) from error

    def reshape(self, module: nn.Module) -> None:
        """Give ``module`` this structure, in place; InputError where it has other parts."""
        try:
            for path in self.identities:
                replace_module(module, module.get_submodule(path), nn.Identity())
            for path in self.biases:
                layer = module.get_submodule(path)
                layer.bias = nn.Parameter(_no_bias_yet(layer))
        except (AttributeError, TypeError) as error:
            raise InputError(
                f"the folded checkpoint belongs to another architecture: {error}",
                remedy="Give the module that was folded, freshly made.",
            ) from error


def folded_copy(module: nn.Module, captured: Capture, plan: Plan, *, share: bool) -> tuple[nn.Module, Structure]:
    """A folded copy of ``module``; with ``share``, untouched tensors are those of the original."""
    result = structural_copy(module, share_buffers=True)
    if not share:
        result = copy.deepcopy(result)
    gained = [path for edit in plan.edits if (path := _rewrite(result, captured, edit))]
    paths = [captured.owners[fold.bn.index] for fold in plan.folds]
    for path in paths:
        bn = result.get_submodule(path)
        replace_module(result, bn, nn.Identity().train(bn.training))
    return result, Structure(tuple(paths), tuple(gained))


def check_same_outputs(folded: nn.Module, inputs: Inputs, expected: Iterable[torch.Tensor]) -> None:
    """Run a copy of the folded module on the recorded inputs; InternalError where it computes something else.

    A copy, since a batch norm that stayed in training mode writes to its buffers, which the original shares.
    """
    scratch = structural_copy(folded, share_buffers=False)
    if folded.training:
        scratch.eval()
    actual = output_tensors(run(scratch, inputs))
    for before, after in zip(expected, actual, strict=True):
        if not _close(before, after):
            raise InternalError(
                "the folded module computes something else than the original on the recorded inputs",
                remedy="Nothing was written. Please report this model's structure; --skip leaves batch norms out.",
            )


def replace_module(root: nn.Module, old: nn.Module, new: nn.Module) -> None:
    """Put ``new`` wherever ``old`` is registered, under the same names and in the same order."""
    for parent in list(root.modules()):
        for name, child in parent._modules.items():  # noqa: SLF001 - the registry itself, so that the order stays
            if child is old:
                parent._modules[name] = new  # noqa: SLF001 - as above


def _rewrite(root: nn.Module, captured: Capture, edit: Edit) -> str:
    """Give a layer, or a batch norm that stays, its folded weight and bias; its path, if it gained a bias."""
    path = captured.owners[edit.node.index]
    layer = root.get_submodule(path)
    if edit.node.kind is OpKind.BATCH_NORM:
        scale, shift = scale_and_shift(captured.view, edit.node, edit.steps)
        layer.weight, layer.bias = _parameter(scale, layer.weight), _parameter(shift, layer.bias)
        return ""
    weight, bias = _folded_arrays(captured.view, edit)
    layer.weight = _parameter(weight, layer.weight)
    if bias is None:
        return ""
    gains_bias = layer.bias is None
    layer.bias = _parameter(bias, layer.weight if gains_bias else layer.bias)
    return path if gains_bias else ""


def _folded_arrays(view: GraphView, edit: Edit) -> tuple[NDArray[Any], NDArray[Any] | None]:
    weight, bias, _ = layer_constants(view, edit.node)
    kernel = kernel_of(view, edit.node).after(edit.steps)
    return kernel.stored(weight.dtype, bias.dtype if bias else weight.dtype)


def _parameter(values: NDArray[Any], like: torch.Tensor | nn.Module) -> nn.Parameter:
    """A parameter with these values (bfloat16 as uint16 bits), and the dtype, device and order of axes of ``like``."""
    if not isinstance(like, torch.Tensor):
        raise TypeError(f"a layer's parameter is a {type(like).__name__}")
    if like.dtype is torch.bfloat16:
        tensor = torch.from_numpy(values.view(np.int16)).view(torch.bfloat16)
    else:
        tensor = torch.from_numpy(values)
    if like.dim() == tensor.dim():
        tensor = torch.empty_like(like, requires_grad=False).copy_(tensor)
    return nn.Parameter(tensor.to(like.device), requires_grad=like.requires_grad)


def _no_bias_yet(layer: nn.Module) -> torch.Tensor:
    """Room for the bias of a layer, one number an output channel."""
    channels = layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels
    weight = layer.weight
    if not isinstance(weight, torch.Tensor) or not isinstance(channels, int):
        raise TypeError(f"{type(layer).__name__} is no layer with a weight")
    return torch.empty(channels, dtype=weight.dtype, device=weight.device)


def _close(before: torch.Tensor, after: torch.Tensor) -> bool:
    """Whether two outputs agree, NaN and Inf in the same places."""
    if before.shape != after.shape or before.dtype != after.dtype:
        return False
    if before.is_complex():
        return _close(torch.view_as_real(before), torch.view_as_real(after))
    if not before.is_floating_point():
        return torch.equal(before, after)
    finite = before.isfinite()
    same_places = torch.equal(before.isnan(), after.isnan()) and torch.equal(before.isposinf(), after.isposinf())
    if not same_places or not torch.equal(finite, after.isfinite()):
        return False
    scale = before[finite].abs().max() if finite.any() else torch.tensor(0.0)
    tolerance = SELF_CHECK_TOLERANCE.get(before.dtype, HALF_TOLERANCE)
    return bool(((before - after)[finite].abs() <= tolerance * scale).all())
