"""Lazy modules: some of their tensors get their sizes, and random values, in the module's first run.

Until then nobody knows the values, and a batch norm that depends on them stays. What does not depend on them folds:
the module is recorded as a copy that has run once, and the plan is carried out on the module as it was given.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.parameter import is_lazy

from bnfold.errors import InputError
from bnfold.formats.torch.copies import stored_in
from bnfold.formats.torch.running import Inputs, run
from bnfold.formats.torch.scratch import scratch_copy

REMEDY = "run the module once on an example, then fold"


def awaits_first_run(module: nn.Module) -> bool:
    """Whether a part changes in its first run; its tensors may be there already, loaded from a checkpoint."""
    parts = list(module.modules())
    return any(isinstance(part, LazyModuleMixin) for part in parts) or any(map(is_lazy, _tensors(parts)))


def after_first_run(module: nn.Module, inputs: Inputs) -> nn.Module:
    """A copy in inference mode that has run once on ``inputs``, the same each time; a module that is not lazy itself.

    UsageError where it does not run.
    """
    if not awaits_first_run(module):
        return module
    scratch = scratch_copy(module)
    run(scratch, inputs)
    return scratch


def uninitialised_in(module: nn.Module) -> frozenset[str]:
    """The names of the parameters and buffers that have no size yet; each has as many as there are ways to it."""
    parts = module.named_modules(remove_duplicate=False)
    return frozenset(
        f"{path}.{name}".removeprefix(".")
        for path, part in parts
        for name, tensor in (*part._parameters.items(), *part._buffers.items())  # noqa: SLF001 - the public ways skip those that are there twice
        if is_lazy(tensor)
    )


def require_initialised(module: nn.Module) -> None:
    """InputError where a tensor has no values yet, for what needs all of them."""
    if any(map(is_lazy, _tensors(module.modules()))):
        raise InputError("the module is lazy: some of its tensors have no size and no values yet", remedy=REMEDY)


def _tensors(parts: Iterable[nn.Module]) -> list[torch.Tensor]:
    parameters, buffers = stored_in(parts)
    return parameters + buffers
