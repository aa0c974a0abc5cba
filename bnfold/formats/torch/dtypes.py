"""The dtypes of a checkpoint: its module is loaded, run and folded in those of the file, which the folded one keeps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, cast

import torch
from torch import nn

from bnfold.formats.torch.inputs import GivenInputs
from bnfold.records import InputSpec, SampleShapes

COMPUTING = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
"""What a network can be stored in and run in; other dtypes are read into what the factory gives."""


def lend_dtypes(state: Mapping[str, torch.Tensor], module: nn.Module) -> torch.dtype | None:
    """Give the tensors of ``module`` the dtypes of the same names in ``state``.

    Where these have but one dtype, the whole module gets it, and it is returned if the module had another one.
    """
    stored = {name: tensor.dtype for name, tensor in state.items() if tensor.dtype in COMPUTING}
    common = set(stored.values()).pop() if len(set(stored.values())) == 1 else None
    named = module.state_dict(keep_vars=True)
    wanted = [(named[name], dtype) for name, dtype in stored.items() if name in named]
    if common is not None:
        wanted += [(tensor, common) for tensor in (*module.parameters(), *module.buffers())]
    unlike = [(tensor, dtype) for tensor, dtype in wanted if tensor.dtype in COMPUTING and tensor.dtype is not dtype]
    for tensor, dtype in unlike:
        tensor.data = tensor.data.to(dtype)
    return common if unlike else None


def follow(given: GivenInputs, dtype: torch.dtype | None) -> GivenInputs:
    """Example inputs for a module that changed to ``dtype``: its float inputs change along."""
    if dtype is None or given is None or isinstance(given, SampleShapes):
        return given
    if isinstance(given, torch.Tensor):
        return cast("torch.Tensor", _followed(given, dtype))
    if isinstance(given, dict):
        return {name: _followed(value, dtype) for name, value in given.items()}
    if isinstance(given, list):  # several inputs, or descriptions of one
        several: Any = [
            _followed(item, dtype) if isinstance(item, InputSpec) else follow(item, dtype) for item in given
        ]
        return cast("GivenInputs", several)
    followed: Any = tuple(_followed(item, dtype) for item in given)
    return cast("GivenInputs", followed)


def _followed(item: Any, dtype: torch.dtype) -> Any:  # noqa: ANN401 - what it is given, it returns
    """A float tensor, or its description, in ``dtype``; anything else as it is."""
    if isinstance(item, torch.Tensor):
        return item.to(dtype) if item.dtype in COMPUTING else item
    if isinstance(item, InputSpec) and getattr(torch, item.dtype, None) in COMPUTING:
        return replace(item, dtype=str(dtype).removeprefix("torch."))
    return item
