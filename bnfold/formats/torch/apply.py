"""A plan becomes a new module tree: the user's classes and control flow, with new weights and without batch norms."""

from __future__ import annotations

import copy
from typing import Any

import torch
from numpy.typing import NDArray
from torch import nn

from bnfold.core.collecting import uncollected
from bnfold.core.graph import OpKind
from bnfold.core.kernel import layer_constants
from bnfold.core.pointwise import scale_and_shift
from bnfold.core.verdict import Edit, Plan
from bnfold.formats.torch.capture import Capture, stored_tensors
from bnfold.formats.torch.copies import structural_copy, uninitialised_twins
from bnfold.formats.torch.structure import Structure, remove
from bnfold.formats.torch.tensors import as_tensor, folded_arrays, like


@uncollected()
@torch.inference_mode(mode=False)
def folded_copy(module: nn.Module, captured: Capture, plan: Plan, *, share: bool) -> tuple[nn.Module, Structure]:
    """A folded copy of ``module``; with ``share``, untouched tensors are those of the original.

    Also a caller in inference mode gets tensors that can be trained afterwards.
    """
    stored = {name: tensor for names, tensor in stored_tensors(module) for name in names}
    silenced = [str(name) for fold in plan.folds if fold.leaving for name in fold.bn.inputs[1:3]]
    remains = [captured.remains[fold.bn.index] for fold in plan.folds if not fold.leaving]
    replaced = {name: values for remain in remains for name, values in remain.neutral.items()}
    replaced |= {name: torch.zeros_like(stored[name]) for name in silenced}
    gained: dict[str, nn.Parameter] = {}
    """By path, the bias of a layer that had none."""
    for edit in plan.edits:
        for name, array in _rewritten(captured, edit).items():
            if name in captured.stored:
                replaced[name] = as_tensor(array, stored[name])
            else:
                path = name.rpartition(".")[0]
                gained[path] = _new_bias(array, stored[f"{path}.weight".removeprefix(".")])
    instead = {id(stored[name]): like(new, stored[name]) for name, new in replaced.items()}
    result = structural_copy(module, share_buffers=True, instead=instead)
    if not share:
        result = copy.deepcopy(result, uninitialised_twins((*result.parameters(), *result.buffers())))
    parts = dict(result.named_modules(remove_duplicate=False))
    for path, bias in gained.items():
        parts[path].bias = bias
    gone = tuple(remain.module for remain in remains if remain.calls)
    for path in gone:
        remove(parts[path])
    return result, Structure(gone, tuple(gained))


def _rewritten(captured: Capture, edit: Edit) -> dict[str, NDArray[Any]]:
    """By name, the new values of a layer's tensors, or of those of a batch norm that stays."""
    view, node = captured.view, edit.node
    if node.kind is OpKind.BATCH_NORM:
        names = [str(name) for name in node.inputs[1:3]]
        return dict(zip(names, scale_and_shift(view, node, edit.steps), strict=True))
    weight, bias, traits = layer_constants(view, node)
    new_weight, new_bias = folded_arrays(view, edit)
    if new_bias is None or not (bias or traits.gains_bias):
        return {weight.tensor: new_weight}
    return {weight.tensor: new_weight, bias.tensor if bias else f"{captured.owners[node.index]}.bias": new_bias}


def _new_bias(array: NDArray[Any], weight: torch.Tensor) -> nn.Parameter:
    """The bias of a layer that had none, as trainable as its weight."""
    return nn.Parameter(as_tensor(array, weight).to(weight.device), requires_grad=weight.requires_grad)
