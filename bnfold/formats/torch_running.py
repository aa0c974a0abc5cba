"""A module is never run as it was given, but as a copy, on copies of its inputs, and its outputs are searched."""

from __future__ import annotations

import copy
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import nn
from torch.utils._pytree import tree_leaves, tree_map

from bnfold.errors import InputError, UsageError
from bnfold.formats.torch_trusted import first_line

Inputs = tuple[torch.Tensor, ...] | dict[str, torch.Tensor]
"""Positional or keyword inputs of a module."""
NOBODY: AbstractContextManager[None] = nullcontext()
"""Records nothing."""


def structural_copy(module: nn.Module, *, share_buffers: bool) -> nn.Module:
    """A copy of the module tree that shares its parameters, and its buffers too if asked; InputError if impossible."""
    lazy = (nn.parameter.UninitializedParameter, nn.parameter.UninitializedBuffer)
    if any(isinstance(tensor, lazy) for tensor in (*module.parameters(), *module.buffers())):
        raise InputError(
            "the module is lazy: some of its tensors have no shape yet",
            remedy="run it once on an example input before folding",
        )
    shared = [*module.parameters(), *(module.buffers() if share_buffers else ())]
    plain = [value for part in module.modules() for value in vars(part).values() if isinstance(value, torch.Tensor)]
    try:
        return copy.deepcopy(module, {id(tensor): tensor for tensor in (*shared, *plain)})
    except Exception as error:  # the module's attributes are the user's, and may refuse to be copied in any way
        raise InputError(
            f"the module cannot be copied: {first_line(error)}",
            where="bnfold folds a copy, by copy.deepcopy",
            remedy="take out of the module what cannot be copied (locks, open files, generators)",
        ) from error


def run(module: nn.Module, inputs: Inputs, recorder: AbstractContextManager[object] = NOBODY) -> object:
    """One run in inference mode; the random state is afterwards as before. UsageError where the module fails."""
    own: Inputs = tree_map(_copied, inputs)
    try:
        with torch.inference_mode(), torch.random.fork_rng(), recorder:
            return module(**own) if isinstance(own, dict) else module(*own)
    except Exception as error:
        raise UsageError(
            f"the model fails on the example inputs: {first_line(error)}",
            remedy="give inputs that it accepts with --input (inputs=)",
        ) from error


def _copied(value: object) -> object:
    """A tensor's copy: the model may write to its inputs, which are wanted again."""
    return value.detach().clone() if isinstance(value, torch.Tensor) else value


def output_tensors(outputs: object) -> list[torch.Tensor]:
    """Every tensor in a module's outputs, also inside plain objects."""
    tensors: list[torch.Tensor] = []
    pending = tree_leaves(outputs)
    seen: dict[int, object] = {}
    while pending:
        leaf = pending.pop(0)
        if isinstance(leaf, torch.Tensor):
            tensors.append(leaf)
        elif hasattr(leaf, "__dict__") and id(leaf) not in seen:
            seen[id(leaf)] = leaf  # an object may hold itself
            pending = [*tree_leaves(dict(vars(leaf))), *pending]
    return tensors
