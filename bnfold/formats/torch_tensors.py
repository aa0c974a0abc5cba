"""Arrays become tensors of the kind that they replace."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn


def as_stored(values: NDArray[Any], old: torch.Tensor) -> torch.Tensor:
    """A parameter or buffer with these values (bfloat16 as uint16 bits), in all other respects like ``old``."""
    tensor = torch.from_numpy(values.view(np.int16)).view(torch.bfloat16) if old.dtype is torch.bfloat16 else None
    tensor = torch.from_numpy(values) if tensor is None else tensor
    if old.dim() == tensor.dim():
        tensor = torch.empty_like(old, requires_grad=False).copy_(tensor)
    tensor = tensor.to(old.device)
    return nn.Parameter(tensor, requires_grad=old.requires_grad) if isinstance(old, nn.Parameter) else tensor
