"""A plan becomes a new module tree: the user's classes and control flow, with new weights and without batch norms."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from bnfold.core.graph import GraphView, OpKind
from bnfold.core.kernel import kernel_of, layer_constants
from bnfold.core.pointwise import scale_and_shift
from bnfold.core.verdict import Edit, Plan
from bnfold.errors import InputError, InternalError, UsageError
from bnfold.formats.torch_capture import Capture
from bnfold.formats.torch_running import Inputs, output_tensors, run, structural_copy
from bnfold.formats.torch_structure import Structure, become_identity
from bnfold.formats.torch_trusted import first_line

SELF_CHECK_TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-3}
"""How far the folded module's outputs may be from the recorded ones, relative to the largest: a net for mistakes of
bnfold's own, wide enough for rounding in deep networks. Half precision gets ``HALF_TOLERANCE``."""
HALF_TOLERANCE = 0.1


def folded_copy(module: nn.Module, captured: Capture, plan: Plan, *, share: bool) -> tuple[nn.Module, Structure]:
    """A folded copy of ``module``; with ``share``, untouched tensors are those of the original."""
    result = structural_copy(module, share_buffers=True)
    if not share:
        result = copy.deepcopy(result)
    gained = [path for edit in plan.edits if (path := _rewrite(result, captured, edit))]
    paths = [captured.owners[fold.bn.index] for fold in plan.folds]
    for path in paths:
        become_identity(result.get_submodule(path))
    return result, Structure(tuple(paths), tuple(gained))


def check_same_outputs(folded: nn.Module, inputs: Inputs, expected: Sequence[torch.Tensor]) -> None:
    """Run a copy of the folded module on the recorded inputs; InternalError where it computes something else.

    A copy, since a batch norm that stayed in training mode writes to its buffers, which the original shares.
    InputError where it fails: code of the user's asks a batch norm for what an Identity does not have.
    """
    scratch = structural_copy(folded, share_buffers=False)
    if folded.training:
        scratch.eval()
    try:
        actual = output_tensors(run(scratch, inputs))
    except UsageError as error:
        raise InputError(
            f"the model's own code needs a batch norm that was folded: {first_line(error.__cause__ or error)}",
            where="it runs on the example inputs, and no longer does once folded",
            remedy="leave that batch norm out with --skip (skip=)",
        ) from error
    if len(actual) != len(expected) or not all(map(_close, expected, actual)):
        raise InternalError(
            "the folded module computes something else than the original on the recorded inputs",
            where="nothing was written; a model that is not deterministic cannot be folded either",
            remedy="please report this model's structure; --skip (skip=) leaves batch norms out",
        )


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


def _close(before: torch.Tensor, after: torch.Tensor) -> bool:
    """Whether two outputs agree, NaN and Inf in the same places."""
    if before.shape != after.shape or before.dtype != after.dtype or before.layout != after.layout:
        return False
    before, after = before.to_dense(), after.to_dense()
    if before.is_complex():
        before, after = torch.view_as_real(before.resolve_conj()), torch.view_as_real(after.resolve_conj())
    if not before.is_floating_point():
        return torch.equal(before, after)
    tolerance = SELF_CHECK_TOLERANCE.get(before.dtype, HALF_TOLERANCE)
    wide_before, wide_after = before.double(), after.double()
    broken = ~wide_before.isfinite()
    if not torch.equal(broken, ~wide_after.isfinite()):
        return False
    # NaN becomes 0 and Inf ±1.8e308.
    if not torch.equal(wide_before[broken].nan_to_num(), wide_after[broken].nan_to_num()):
        return False
    errors = (wide_before - wide_after)[~broken].abs()
    return bool((errors <= tolerance * wide_before[~broken].abs().max()).all()) if errors.numel() else True
