"""Copies of a module tree that share its tensors: bnfold changes no module that it was given."""

from __future__ import annotations

import copy
import copyreg
from collections import Counter, OrderedDict
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from bnfold.core.collecting import uncollected
from bnfold.errors import InputError
from bnfold.formats.torch.classes import is_training
from bnfold.formats.torch.trusted import first_line

NOTHING: Mapping[int, torch.Tensor] = {}
"""No tensor is replaced."""

EMPTY = frozenset({dict, OrderedDict, set})
"""What a copy of is quickly made while it is empty: a module has a dozen collections of hooks and names."""
UNCHANGING = frozenset({type(None), bool, int, float, str, torch.dtype, torch.device})
"""What ``copy.deepcopy`` leaves as it is, as most attributes of modules are; tuples of these as well."""


@uncollected()
def structural_copy(
    module: nn.Module, *, share_buffers: bool, instead: Mapping[int, torch.Tensor] = NOTHING
) -> nn.Module:
    """A copy of the module tree that shares its parameters, and its buffers too if asked; InputError if impossible.

    ``instead``: by ``id`` of a parameter or buffer, what stands in the copy wherever somebody holds that tensor.
    """
    parts = list(module.modules())
    parameters, buffers = stored_in(parts)
    kinds = {kind for kind in set(map(type, parts)) if _is_plain(kind)}
    plain = [part for part in parts if type(part) in kinds]
    memo = _quick_copies(parts)
    if not share_buffers:
        memo |= {id(tensor): tensor.detach().clone() for tensor in _with_own_memory(buffers, parameters)}
    memo |= {id(tensor): tensor for tensor in (*parameters, *(buffers if share_buffers else ()))} | dict(instead)
    memo |= uninitialised_twins((*parameters, *buffers))
    twins = {id(part): part.__class__.__new__(part.__class__) for part in plain}
    memo |= twins
    try:
        for part in reversed(plain):  # those within others first: whatever copies itself may use what it holds
            state = part.__getstate__()  # type: ignore[no-untyped-call]  # torch has no types here
            twins[id(part)].__setstate__(_copied_items(state, memo))  # type: ignore[no-untyped-call]  # nor here
        copied = copy.deepcopy(module, memo)
        if len(plain) < len(parts):
            _keep_modes(module, copied)
    except Exception as error:  # the module's attributes are the user's, and may refuse to be copied in any way
        raise InputError(
            f"the module cannot be copied: {first_line(error)}",
            where="bnfold folds a copy, by copy.deepcopy",
            remedy="take out of the module what cannot be copied (locks, open files, generators)",
        ) from error
    return copied


def _quick_copies(parts: Iterable[nn.Module]) -> dict[int, object]:
    """By ``id`` of the attributes of ``parts`` that are empty, an empty twin, and of those that are tensors, these."""
    copies: dict[int, object] = {}
    for part in parts:
        for value in vars(part).values():
            kind = type(value)
            if kind in EMPTY:
                if not value:
                    copies[id(value)] = kind()
            elif kind not in UNCHANGING and isinstance(value, torch.Tensor):
                copies[id(value)] = value
    return copies


def _keep_modes(module: nn.Module, copied: nn.Module) -> None:
    """Put every part into the mode of its original: the feature extractors of torchvision copy into training mode.

    ValueError where a class that copies itself leaves a part out.
    """
    copies = dict(copied.named_modules())
    for path, part in module.named_modules():
        if path not in copies:
            raise ValueError(f"its copy has no {path!r}")
        if is_training(copies[path]) is not is_training(part):
            copies[path].train(is_training(part))


def uninitialised_twins(tensors: Iterable[torch.Tensor]) -> dict[int, object]:
    """By ``id`` of each tensor of a lazy module that has no size yet, another: the first run changes it in place.

    torch copies such parameters, and fails on such buffers.
    """
    twins: dict[int, object] = {}
    for tensor in filter(is_lazy, tensors):
        kind: Any = type(tensor)
        twin = kind(tensor.requires_grad, tensor.device, tensor.dtype)
        vars(twin).update(vars(tensor))
        twins[id(tensor)] = twin
    return twins


def stored_in(parts: Iterable[nn.Module]) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """The parameters and the buffers of ``parts``; torch's own ways to them take longer than copying the modules."""
    parts = list(parts)
    return _tensors(part._parameters for part in parts), _tensors(part._buffers for part in parts)  # noqa: SLF001 - as said


def _tensors(groups: Iterable[Mapping[str, torch.Tensor | None]]) -> list[torch.Tensor]:
    """The tensors of modules, without the empty places."""
    return [tensor for group in groups for tensor in group.values() if tensor is not None]


def _is_plain(kind: type[nn.Module]) -> bool:
    """Whether ``copy.deepcopy`` would copy such a module attribute by attribute, as is done here in less time."""
    return (
        kind not in copyreg.dispatch_table
        and not hasattr(kind, "__deepcopy__")
        and not hasattr(kind, "__slots__")
        and all(getattr(kind, name, None) is getattr(nn.Module, name, None) for name in COPYING)
    )


COPYING = ("__new__", "__reduce_ex__", "__reduce__", "__getstate__", "__getnewargs__", "__getnewargs_ex__")
"""The ways in which a class tells ``copy`` how to go about it."""


def is_unchanging(value: object) -> bool:
    """Whether nobody can change a value, so that it is its own copy."""
    if type(value) in UNCHANGING:
        return True
    return isinstance(value, tuple) and type(value) is tuple and UNCHANGING.issuperset(map(type, value))


def _copied_items(items: Mapping[Any, object], memo: dict[int, object]) -> dict[Any, object]:
    """A copy of the attributes of a module, or of one of its collections."""
    return {  # most are known, and calls take time
        name: value if type(value) in UNCHANGING else memo[id(value)] if id(value) in memo else _copied(value, memo)
        for name, value in items.items()
    }


def _copied(value: object, memo: dict[int, object]) -> object:
    """What ``copy.deepcopy`` makes of an attribute.

    It makes nothing of tensors that were computed with gradients, as models keep that have run in training: here they
    are copied without.
    """
    if id(value) in memo:
        return memo[id(value)]
    if is_unchanging(value):
        return value
    if isinstance(value, torch.Tensor) and type(value) is torch.Tensor and not value.is_leaf:
        memo[id(value)] = value.detach().clone()
        return memo[id(value)]
    if isinstance(value, list) and type(value) is list:
        copies: list[object] = []
        memo[id(value)] = copies
        copies += [_copied(item, memo) for item in value]
        return copies
    if isinstance(value, dict) and type(value) is dict and UNCHANGING.issuperset(map(type, value)):
        twin: dict[Any, object] = {}
        memo[id(value)] = twin
        twin |= _copied_items(value, memo)
        return twin
    return copy.deepcopy(value, memo)


def _with_own_memory(buffers: list[torch.Tensor], parameters: list[torch.Tensor]) -> list[torch.Tensor]:
    """The buffers that are plain tensors with memory of their own, of which a clone is a copy."""
    places = Counter(map(storage_of, (*parameters, *buffers)))
    return [
        tensor
        for tensor in buffers
        if type(tensor) is torch.Tensor and not tensor.requires_grad and places[storage_of(tensor)] == 1
    ]


def storage_of(tensor: torch.Tensor) -> int:
    """A number that tensors share while they share memory; those without memory are on their own."""
    try:
        return int(tensor.untyped_storage()._cdata)  # noqa: SLF001 - the one identity a storage has
    except (NotImplementedError, RuntimeError, ValueError):  # sparse, quantised and uninitialised ones have none
        return id(tensor)
