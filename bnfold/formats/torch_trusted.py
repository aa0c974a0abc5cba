"""The one place that may run code from a file, and only on the user's word (``--trust-code``)."""

from __future__ import annotations

import pickle
from pathlib import Path

import torch
from torch import nn

from bnfold.errors import InputError


def load_pickled_module(path: Path) -> nn.Module:
    """The module in a file written by ``torch.save(module, path)``. Unpickling runs whatever code the file names."""
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=False)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError, AttributeError, ImportError) as error:
        raise InputError(
            f"the pickled module cannot be loaded: {first_line(error)}",
            where=str(path),
            remedy="The classes it was made of must be importable here.",
        ) from error
    if not isinstance(loaded, nn.Module):
        raise InputError(
            f"the file holds a {type(loaded).__name__}, not a module",
            where=str(path),
            remedy="For a state_dict give --model pkg.module:factory.",
        )
    return loaded


def first_line(error: BaseException) -> str:
    """The first line of another library's message, which may have many."""
    return next(iter(str(error).splitlines()), type(error).__name__)
