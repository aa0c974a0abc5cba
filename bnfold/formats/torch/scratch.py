"""The copy of a module that runs in its place: whatever a run changes is the copy's own."""

from __future__ import annotations

import torch
from torch import nn

from bnfold.formats.torch.copies import structural_copy


def scratch_copy(module: nn.Module) -> nn.Module:
    """A copy in inference mode (its parts as they are, unless the whole is in training), of which nobody sees a run.

    Its parameters are tensors of their own over the memory of those that were given: code may assign to ``.data``, as
    constraints on weights do, and what it writes in place ``run`` takes back. Its buffers, and tensors that are plain
    attributes, have memory of their own. InputError where the module cannot be copied.
    """
    registered = {id(tensor) for tensor in (*module.parameters(), *module.buffers())}
    values = [value for part in module.modules() for value in vars(part).values()]
    plain = [value for value in values if type(value) is torch.Tensor and id(value) not in registered]
    instead: dict[int, torch.Tensor] = {id(tensor): tensor.detach().clone() for tensor in plain}
    instead |= {id(tensor): _alias(tensor) for tensor in module.parameters() if type(tensor) is nn.Parameter}
    scratch = structural_copy(module, share_buffers=False, instead=instead)
    return scratch.eval() if module.training else scratch


def _alias(parameter: nn.Parameter) -> nn.Parameter:
    """Another parameter over the same memory, with the attributes that somebody gave it."""
    alias = nn.Parameter(parameter.detach(), requires_grad=parameter.requires_grad)
    vars(alias).update(vars(parameter))
    return alias
