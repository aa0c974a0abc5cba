"""What kind of file is this? Told from its first bytes and, for a zip archive, its directory; the name is not trusted.

Nothing is unpacked, unpickled or parsed here: a kind says which reader to ask, or why no reader can help.
"""

from __future__ import annotations

import difflib
import os
import stat
import zipfile
from enum import Enum
from itertools import islice
from pathlib import Path
from typing import Final

from bnfold.errors import InputError
from bnfold.files.magic import (
    looks_like_html,
    looks_like_onnx,
    looks_like_safetensors,
    looks_like_shard_index,
    looks_like_text,
)
from bnfold.files.names import printable

HEAD_BYTES: Final = 64 * 1024
"""As much as is read of a file."""

_LISTED: Final = 1000
"""As many names as are looked at in a folder."""

MODEL_SUFFIXES: Final = (".onnx", ".safetensors", ".safetensors.index.json", ".pt", ".pth", ".pt2", ".bin", ".ckpt")
"""How the names of models end; a help for suggestions, never a proof."""


class Kind(Enum):
    """The kinds that are told apart; ``value`` is the kind in words."""

    ONNX = "an ONNX model"
    SAFETENSORS = "a safetensors file"
    SAFETENSORS_INDEX = "an index of safetensors shards"
    TORCH_ZIP = "a PyTorch checkpoint"  # a state_dict or a pickled module: only unpickling would tell
    TORCH_PICKLE = "a PyTorch checkpoint of the legacy form"
    TORCHSCRIPT = "a TorchScript archive"
    PT2 = "an exported PyTorch program (.pt2)"
    PICKLE = "a Python pickle that torch.save did not write"
    ZIP = "a zip archive with no model in it"
    BROKEN_ZIP = "a zip archive that is cut short or damaged"
    LFS_POINTER = "a Git LFS pointer, not the file it stands for"
    HTML = "a web page"
    TAR = "a tar archive"
    GZIP = "a gzip-compressed file"
    TEXT = "a text file"
    EMPTY = "an empty file"
    FOLDER = "a folder"
    SPECIAL = "a device, pipe or socket"
    UNKNOWN = "a file of no kind that bnfold knows"


MODELS: Final = frozenset(
    {Kind.ONNX, Kind.SAFETENSORS, Kind.SAFETENSORS_INDEX, Kind.TORCH_ZIP, Kind.TORCH_PICKLE, Kind.PT2}
)
"""The kinds that have a reader."""

_REMEDIES: Final = {
    Kind.TORCHSCRIPT: "give the module's state_dict with --model pkg.module:factory, or export the module to ONNX",
    Kind.PICKLE: "save the model with torch.save(module.state_dict(), PATH)",
    Kind.ZIP: "unpack it and give the model inside",
    Kind.BROKEN_ZIP: "its directory, at the end, cannot be read: copy or download it again",
    Kind.LFS_POINTER: "run `git lfs pull` where it was cloned",
    Kind.HTML: "download it again: the address led to a page about the file, or to a log-in",
    Kind.TAR: "unpack it and give the model inside",
    Kind.GZIP: "unpack it first (gunzip)",
    Kind.TEXT: "give the model file itself; a PyTorch class is named with --model pkg.module:factory",
    Kind.EMPTY: "it was never written to the end: export or copy the model again",
    Kind.SPECIAL: "save the model to a file first",
    Kind.UNKNOWN: "bnfold reads .onnx, .safetensors, .pt, .pth and .pt2; if it is one of these, it is damaged",
}


def require_model(path: Path) -> Kind:
    """The kind of a model file. Raises InputError where it is missing, unreadable or no model bnfold can read."""
    kind = recognise(path)
    if kind in MODELS:
        return kind
    remedy = _models_in(path) if kind is Kind.FOLDER else _REMEDIES[kind]
    raise InputError(f"cannot read a model from {printable(str(path))}: it is {kind.value}", remedy=remedy)


def recognise(path: Path) -> Kind:
    """The kind of what is at ``path``. Raises InputError where nothing is there or it cannot be read."""
    try:
        found = path.stat()
        if stat.S_ISDIR(found.st_mode):
            return Kind.FOLDER
        if not stat.S_ISREG(found.st_mode):
            return Kind.SPECIAL
        with path.open("rb") as stream:
            head = stream.read(HEAD_BYTES)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise _missing(path) from error
    except OSError as error:
        raise InputError(f"cannot read {printable(str(path))}: {error.strerror or error}") from error
    return _kind_of_zip(path) if head.startswith((b"PK\x03\x04", b"PK\x05\x06")) else _kind_of(head, found.st_size)


def _kind_of(head: bytes, size: int) -> Kind:
    """The first that fits: exact marks first, then forms without a mark, most telling first."""
    marks = {
        b"version https://git-lfs.github.com/spec/": Kind.LFS_POINTER,
        # torch.serialization.MAGIC_NUMBER, pickled with protocol 2
        b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.": Kind.TORCH_PICKLE,
        b"\x1f\x8b": Kind.GZIP,
    }
    for mark, kind in marks.items():
        if head.startswith(mark):
            return kind
    forms = (
        (not head, Kind.EMPTY),
        (head[257:262] == b"ustar", Kind.TAR),
        (looks_like_html(head), Kind.HTML),
        (looks_like_safetensors(head, size), Kind.SAFETENSORS),
        (head[:1] == b"\x80" and head[1:2] in {b"\x02", b"\x03", b"\x04", b"\x05"}, Kind.PICKLE),
        (looks_like_shard_index(head), Kind.SAFETENSORS_INDEX),
        (looks_like_text(head), Kind.TEXT),
        (looks_like_onnx(head), Kind.ONNX),
    )
    return next((kind for fits, kind in forms if fits), Kind.UNKNOWN)


def _kind_of_zip(path: Path) -> Kind:
    """Told from the directory at the archive's end; torch puts all entries below one folder of any name."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = {name.partition("/")[2] or name for name in archive.namelist()}
    except (zipfile.BadZipFile, NotImplementedError, OSError, ValueError):
        # Of a damaged directory: OSError for a seek that it asks for, ValueError for a name that is no text.
        return Kind.BROKEN_ZIP
    if names & {"archive_format", "serialized_exported_program.json"}:  # torch 2.7 and newer, older
        return Kind.PT2
    if "constants.pkl" in names and any(name.startswith("code/") for name in names):
        return Kind.TORCHSCRIPT
    if "data.pkl" in names:
        return Kind.TORCH_ZIP
    return Kind.ZIP


def _missing(path: Path) -> InputError:
    shown = printable(str(path))
    if path.is_symlink():
        return InputError(f"{shown} is a link to {printable(str(path.readlink()))}, which does not exist")
    if not path.parent.is_dir():
        return InputError(f"there is no file {shown}", where=f"nor a folder {printable(str(path.parent))}")
    near = difflib.get_close_matches(path.name, _names_in(path.parent), n=3)
    remedy = f"did you mean {' or '.join(printable(str(path.with_name(name))) for name in near)}?" if near else ""
    return InputError(f"there is no file {shown}", remedy=remedy)


def _models_in(folder: Path) -> str:
    models = sorted(name for name in _names_in(folder) if name.endswith(MODEL_SUFFIXES))[:3]
    if not models:
        return "give a model file"
    return f"give a file in it: {', '.join(printable(str(folder / name)) for name in models)}"


def _names_in(folder: Path) -> list[str]:
    """The first names in a folder; none where it may not be listed."""
    try:
        with os.scandir(folder) as entries:
            return [entry.name for entry in islice(entries, _LISTED)]
    except OSError:
        return []
