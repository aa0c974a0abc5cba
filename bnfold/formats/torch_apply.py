"""A plan becomes a new module tree: the user's classes and control flow, with new weights and without batch norms."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from bnfold.core.graph import GraphView, OpKind
from bnfold.core.kernel import kernel_of, layer_constants
from bnfold.core.pointwise import scale_and_shift
from bnfold.core.verdict import Edit, Plan
from bnfold.formats.torch_capture import Capture
from bnfold.formats.torch_running import structural_copy
from bnfold.formats.torch_structure import Structure, become_identity


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
