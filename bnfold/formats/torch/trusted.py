"""The one place that may run code from a file, and only on the user's word (``--trust-code``)."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING

import torch
from torch import nn

from bnfold.errors import InputError, UsageError
from bnfold.files.archive import require_intact
from bnfold.files.recognise import Kind, recognise

if TYPE_CHECKING:
    from torch.export import ExportedProgram

MESSAGE_LENGTH = 200
"""As much as is shown of another library's message."""


def load_pickled_module(path: Path) -> nn.Module:
    """The module in a file written by ``torch.save(module, path)``. Unpickling runs whatever code the file names."""
    import_from_here()
    if recognise(path) is Kind.TORCH_ZIP:
        require_intact(path)
    try:
        with path.open("rb") as stream:
            loaded = torch.load(stream, map_location="cpu", weights_only=False)
    except Exception as error:  # unpickling runs the file's code, which may raise anything
        raise InputError(
            f"the pickled module cannot be loaded: {first_line(error)}",
            where=str(path),
            remedy="the classes that it is made of must be importable from the current directory",
        ) from error
    if isinstance(loaded, nn.Module):
        return loaded
    if isinstance(loaded, Mapping):
        raise UsageError(
            f"the file holds {a_or_an(loaded)}, not a module",
            where=str(path),
            remedy="for a state_dict give its architecture: --model pkg.module:factory",
        )
    raise InputError(f"the file holds {a_or_an(loaded)}, not a module", where=str(path))


def load_program(path: Path, note: str) -> tuple[ExportedProgram, str]:
    """The exported program in a .pt2 file, and what was written beside it under ``note``, if anything.

    Loading it runs code: its custom objects are unpickled.
    """
    notes = {note: ""}
    try:
        with path.open("rb") as stream:
            return torch.export.load(stream, extra_files=notes), notes[note]
    except Exception as error:  # whatever the file's code, or torch's reader of a damaged file, raises
        raise InputError(
            f"the exported program cannot be loaded: {first_line(error)}",
            where=str(path),
            remedy="export it again with torch.export.save, with this version of torch",
        ) from error


def import_from_here() -> None:
    """Let the user's modules be imported from the current directory, as ``python -m`` does."""
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)


def first_line(error: BaseException) -> str:
    """The first line of another library's message, which may have many, or be a bare word."""
    kind = type(error).__name__
    line = shorten(next(iter(str(error).splitlines()), ""), MESSAGE_LENGTH, placeholder=" …")
    return line if " " in line else f"{kind}: {line}".removesuffix(": ")


def a_or_an(thing: object) -> str:
    """The class of ``thing`` with its article."""
    name = type(thing).__name__
    return f"{'an' if name[0] in 'AEIOUaeiou' else 'a'} {name}"
