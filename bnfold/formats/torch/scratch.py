"""The copy of a module that runs in its place: whatever a run changes is the copy's own."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection
from types import FunctionType, MethodType, ModuleType

import numpy as np
import torch
from torch import nn
from torch.nn.parameter import is_lazy

from bnfold.core.collecting import uncollected
from bnfold.formats.torch.classes import is_training
from bnfold.formats.torch.copies import is_unchanging, storage_of, stored_in, structural_copy


@uncollected()
def scratch_copy(module: nn.Module) -> nn.Module:
    """A copy in inference mode (its parts as they are, unless the whole is in training), of which nobody sees a run.

    Its parameters are tensors of their own over the memory of those that were given: code may assign to ``.data``, as
    constraints on weights do, and what it writes in place ``run`` takes back. Its buffers, and tensors that are plain
    attributes, have memory of their own. InputError where the module cannot be copied.
    """
    parts = list(module.modules())
    parameters, buffers = stored_in(parts)
    registered = {id(tensor) for tensor in (*parameters, *buffers)}
    values = [value for part in parts for value in vars(part).values()]
    plain = [value for value in values if type(value) is torch.Tensor and id(value) not in registered]
    instead: dict[int, torch.Tensor] = {id(tensor): tensor.detach().clone() for tensor in plain}
    own = [tensor for tensor in parameters if type(tensor) is nn.Parameter and not tensor.is_inference()]
    instead |= {id(tensor): _alias(tensor) for tensor in own}
    scratch = structural_copy(module, share_buffers=False, instead=instead)
    return scratch.eval() if is_training(module) else scratch


def _alias(parameter: nn.Parameter) -> nn.Parameter:
    """Another parameter over the same memory, with the attributes that somebody gave it."""
    alias = nn.Parameter(parameter.detach(), requires_grad=parameter.requires_grad)
    vars(alias).update(vars(parameter))
    return alias


@uncollected()
def state_of(scratch: nn.Module) -> list[object]:
    """What a run of a copy may have changed, as far as that can be told: unequal where anything has been."""
    state: list[object] = []
    for part in scratch.modules():
        state.append(id(part))
        state += [
            (name, value if is_unchanging(value) else _identity(value))
            for name, value in vars(part).items()
            if name not in OF_TORCH
        ]
        state += [(name, id(child)) for name, child in part._modules.items()]  # noqa: SLF001 - as it stands
        state += [(name, _identity(buffer)) for name, buffer in part._buffers.items()]  # noqa: SLF001 - as it stands
    return state


OF_TORCH = frozenset(vars(nn.Module()).keys() - {"training"})
"""The attributes of every module, but for the one that code may change in a run."""


def _identity(value: object, depth: int = 0) -> object:
    """What is another after a change: the value of a number or a word, the place of all else and what it holds."""
    if isinstance(value, bool | int | float | str | None):
        return value
    if isinstance(value, torch.Tensor) and not is_lazy(value):
        written = 0 if value.is_inference() else value._version  # noqa: SLF001 - how often it was written to
        return id(value), written, storage_of(value)
    if isinstance(value, np.ndarray):
        return id(value), value.tobytes() if value.size <= MOST_NUMBERS and not value.dtype.hasobject else b""
    held = _held(value) if depth < DEEPEST else ()
    return id(value), [_identity(item, depth + 1) for item in held]


DEEPEST, MOST_NUMBERS = 4, 4096
"""So deep, and into so large arrays, is looked for what code counts in."""


def _held(value: object) -> Collection[object]:
    """What a collection holds, or an object that is no module and no code."""
    if isinstance(value, dict):
        return list(value.values())
    if isinstance(value, list | set | deque):
        return value
    is_other = isinstance(value, nn.Module | torch.Tensor | type | FunctionType | MethodType | ModuleType)
    return () if is_other else list(getattr(value, "__dict__", {}).values())
