"""A module is never run as it was given, but as a copy, on copies of its inputs, and its outputs are searched."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from bnfold.errors import UsageError
from bnfold.formats.torch.copies import storage_of
from bnfold.formats.torch.trusted import first_line

if TYPE_CHECKING:
    from torch._ops import OpOverload

Inputs = tuple[torch.Tensor, ...] | dict[str, torch.Tensor]
"""Positional or keyword inputs of a module."""
NOBODY: AbstractContextManager[None] = nullcontext()
"""Records nothing."""


def unwrapped(module: nn.Module) -> nn.Module:
    """The module underneath DataParallel, DistributedDataParallel and torch.compile."""
    wrappers = (nn.DataParallel, nn.parallel.DistributedDataParallel)
    while isinstance(module, wrappers) or COMPILED in module._modules:  # noqa: SLF001 - asking by name may run code
        module = module.get_submodule("module" if isinstance(module, wrappers) else COMPILED)
    return module


COMPILED = "_orig_mod"
"""Under this name torch.compile keeps the module that it has compiled."""


def run(module: nn.Module, inputs: Inputs, recorder: AbstractContextManager[object] = NOBODY) -> object:
    """One run in inference mode; parameters and random states are afterwards as before. UsageError where it fails."""
    own: Inputs = tree_map(_copied, inputs)
    try:
        with torch.inference_mode(), _random_states_kept(), WritesUndone(module.parameters()), recorder:
            return module(**own) if isinstance(own, dict) else module(*own)
    except Exception as error:
        raise UsageError(
            f"the model fails on the example inputs: {first_line(error)}",
            remedy="give inputs that it accepts with --input (inputs=)",
        ) from error


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


class WritesUndone(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's base class has no types
    """Parameters that a run writes to, which a copy shares with the module that was given, get their values back."""

    def __init__(self, parameters: Iterable[torch.Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._parameters = {storage_of(parameter): parameter for parameter in parameters}
        self._before: dict[int, torch.Tensor] = {}

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """No: torch would import its compiler (80 MB, a second) to tell it that there is nothing to compile here."""
        return False

    def __torch_dispatch__(
        self, func: OpOverload, types: object, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> object:
        del types
        if func._schema.is_mutable:  # noqa: SLF001 - where torch says what is written
            for leaf in tree_leaves((args, kwargs)):
                place = storage_of(leaf) if isinstance(leaf, torch.Tensor) else None
                if place in self._parameters and place not in self._before:
                    self._before[place] = self._parameters[place].detach().clone()
        return func(*args, **(kwargs or {}))

    def __exit__(self, *details: object) -> None:
        super().__exit__(*details)  # type: ignore[no-untyped-call]
        for place, values in self._before.items():
            self._parameters[place].detach().copy_(values)
