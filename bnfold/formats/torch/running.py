"""A module is never run as it was given, but as a copy, on copies of its inputs, and its outputs are searched."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import numpy as np
import torch
from torch import nn
from torch.utils._pytree import tree_leaves, tree_map

from bnfold.errors import UsageError
from bnfold.formats.torch.trusted import first_line
from bnfold.formats.torch.writes import WritesUndone

Inputs = tuple[torch.Tensor, ...] | dict[str, torch.Tensor]
"""Positional or keyword inputs of a module."""


def unwrapped(module: nn.Module) -> nn.Module:
    """The module underneath DataParallel, DistributedDataParallel and torch.compile."""
    wrappers = (nn.DataParallel, nn.parallel.DistributedDataParallel)
    while isinstance(module, wrappers) or COMPILED in module._modules:  # noqa: SLF001 - asking by name may run code
        module = module.get_submodule("module" if isinstance(module, wrappers) else COMPILED)
    return module


COMPILED = "_orig_mod"
"""Under this name torch.compile keeps the module that it has compiled."""


def run(module: nn.Module, inputs: Inputs, mode: WritesUndone | None = None) -> object:
    """One run in inference mode; parameters and random states are afterwards as before. UsageError where it fails.

    ``mode`` is what sees every call, if anybody wants to.
    """
    own: Inputs = tree_map(_copied, inputs)
    mode = mode or WritesUndone()
    mode.protect(module.parameters())
    mode.sizes.outermost = run.__code__
    try:
        with torch.inference_mode(), _random_states_kept(), _as_written(), mode.watching():
            return module(**own) if isinstance(own, dict) else module(*own)
    except Exception as error:
        raise UsageError(
            f"the model fails on the example inputs: {first_line(error)}",
            remedy="give inputs that it accepts with --input (inputs=)",
        ) from error


def _as_written() -> AbstractContextManager[object]:
    """What torch.compile was given runs as it is written: it would compile what watches the run along with it."""
    is_used = "torch._dynamo" in sys.modules  # importing it takes a second and 80 MB
    return torch.compiler.set_stance("force_eager") if is_used else nullcontext()


@contextmanager
def _random_states_kept() -> Iterator[None]:
    """The generators of torch, NumPy and Python go on afterwards as if nobody had asked them: runs draw the same."""
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002 - what models draw from
    try:
        with torch.random.fork_rng():
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002 - as above


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
