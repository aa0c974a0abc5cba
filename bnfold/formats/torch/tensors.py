"""Folded arrays, and how they become tensors of the kind that they replace."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from bnfold.core.graph import GraphView
from bnfold.core.kernel import kernel_of, layer_constants
from bnfold.core.verdict import Edit


def folded_arrays(view: GraphView, edit: Edit) -> tuple[NDArray[Any], NDArray[Any] | None]:
    """A layer's weight and bias after ``edit``, in the dtypes that they are stored in (bfloat16 as uint16 bits)."""
    weight, bias, _ = layer_constants(view, edit.node)
    kernel = kernel_of(view, edit.node).after(edit.steps)
    return kernel.stored(weight.dtype, bias.dtype if bias else weight.dtype)


def as_stored(values: NDArray[Any], old: torch.Tensor) -> torch.Tensor:
    """A parameter or buffer with these values, in all other respects like ``old``."""
    return like(as_tensor(values, old), old)


def as_tensor(array: NDArray[Any], old: torch.Tensor) -> torch.Tensor:
    """The values as a tensor of the dtype of ``old``; those of bfloat16 come as uint16 bits."""
    if old.dtype is torch.bfloat16:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def like(values: torch.Tensor, old: torch.Tensor) -> torch.Tensor:
    """A parameter, or a buffer, with these values and the dtype, device, order of axes and attributes of ``old``."""
    is_alike = old.dim() != values.dim() or values.stride() == old.stride()
    tensor = (values if is_alike else torch.empty_like(old, requires_grad=False).copy_(values)).to(old.device)
    new = nn.Parameter(tensor, requires_grad=old.requires_grad) if isinstance(old, nn.Parameter) else tensor
    vars(new).update(vars(old))
    return new
