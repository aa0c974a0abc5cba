"""Checkpoints that are damaged or mean harm, each with its exit code, and a process that opens them all."""

from __future__ import annotations

import argparse
import codecs
import contextlib
import gzip
import io
import json
import os
import pickle
import subprocess
import sys
import tarfile
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import checkpoint_files as files
import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn

MARK = "code-was-run"
"""The file that hostile code would leave behind."""


class Runs:
    """Unpickling it calls a function."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


def _beside(stranger: object) -> Callable[[Path], object]:
    """A training checkpoint with a stranger beside the tensors."""
    return lambda path: torch.save({"state_dict": files.state(), "note": stranger}, path)


def _changed(name: str, **changes: object) -> Callable[[Path], object]:
    """The network's state_dict with some tensors replaced, or left out where None."""

    def write(path: Path) -> None:
        state = {key: changes.get(key.replace(".", "_"), value) for key, value in files.state().items()}
        torch.save({key: value for key, value in state.items() if value is not None} | _extra(name), path)

    return write


def _extra(name: str) -> dict[str, torch.Tensor]:
    return {f"{name}.{number}": torch.zeros(1) for number in range(9)} if name else {}


def _part(name: str, part: float) -> Callable[[Path], object]:
    """The beginning of a good file."""

    def write(path: Path) -> None:
        files.STATE_FILES[name](path)
        content = path.read_bytes()
        path.write_bytes(content[: int(len(content) * part)])

    return write


def _flipped(name: str, find: Callable[[bytes], int]) -> Callable[[Path], object]:
    """A good file with one bit of one byte turned."""

    def write(path: Path) -> None:
        files.STATE_FILES[name](path)
        content = bytearray(path.read_bytes())
        content[find(bytes(content))] ^= 0x10
        path.write_bytes(bytes(content))

    return write


def _rezipped(change: Callable[[str, bytes], bytes | None], compression: int = zipfile.ZIP_STORED) -> Any:
    """A good archive with its records changed, or left out where None."""

    def write(path: Path) -> None:
        files.STATE_FILES["plain.pt"](path)
        stream = io.BytesIO()
        with zipfile.ZipFile(path) as before, zipfile.ZipFile(stream, "w", compression) as after:
            for item in before.infolist():
                content = change(item.filename.partition("/")[2], before.read(item))
                if content is not None:
                    after.writestr(item.filename, content)
        path.write_bytes(stream.getvalue())

    return write


def _pickle(content: bytes) -> Any:
    return _rezipped(lambda name, before: content if name == "data.pkl" else before)


def _safetensors(header: object, data: bytes = b"", length: int | None = None) -> Callable[[Path], object]:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return lambda path: path.write_bytes((len(text) if length is None else length).to_bytes(8, "little") + text + data)


def _entry(begin: int, end: int, shape: list[int]) -> dict[str, object]:
    return {"dtype": "F32", "shape": shape, "data_offsets": [begin, end]}


def _tar(path: Path) -> None:
    with tarfile.open(path, "w") as archive:
        archive.addfile(tarfile.TarInfo("pickle"), io.BytesIO())


def _renamed(old: bytes, new: bytes) -> bytes:
    """The pickle of a tensor of four elements, with something else in it."""
    archive = io.BytesIO()
    torch.save({"state_dict": {"conv.weight": torch.zeros(4)}}, archive)
    with zipfile.ZipFile(archive) as opened:
        name = next(item for item in opened.namelist() if item.endswith("data.pkl"))
        return opened.read(name).replace(old, new)


def _twice(name: str) -> Callable[[Path], object]:
    """A good archive in which a record comes a second time, and shorter."""

    def write(path: Path) -> None:
        files.STATE_FILES["plain.pt"](path)
        with zipfile.ZipFile(path, "a") as archive, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # zipfile sees that there is one
            found = next(item for item in archive.namelist() if item.endswith(name))
            archive.writestr(found, bytes(4))

    return write


def _nested(depth: int) -> bytes:
    return b"\x80\x02" + b"(" * depth + b"l" * depth + b"."


def _quantised(path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch would rather have another library quantise
        weight = torch.quantize_per_tensor(torch.ones(4, 3, 3, 3), scale=0.1, zero_point=0, dtype=torch.qint8)
        _changed("", conv_weight=weight)(path)


def _program(path: Path) -> None:
    torch.export.save(torch.export.export(nn.Linear(2, 2), (torch.zeros(1, 2),)), path)


def _script(path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.save(torch.jit.script(nn.Linear(2, 2)), path)


TOUCH = Runs(open, MARK, "w")

HOSTILE: dict[str, tuple[int, Callable[[Path], object]]] = {
    "a call of open": (4, _beside(TOUCH)),
    "a call of eval": (4, _beside(Runs(eval, f"open({MARK!r}, 'w')"))),
    "a call of os.system": (4, _beside(Runs(os.system, f"touch {MARK}"))),
    "a call of subprocess": (4, _beside(Runs(subprocess.Popen, ["touch", MARK]))),
    "a call of getattr": (4, _beside(Runs(getattr, "posix", "system"))),
    "a call of torch's own loader": (4, _beside(Runs(torch.load, MARK))),
    "a call instead of a state_dict": (4, lambda path: torch.save(TOUCH, path)),
    "a call in the legacy form": (4, lambda path: torch.save(TOUCH, path, _use_new_zipfile_serialization=False)),
    "a call under a name of a tensor": (4, lambda path: torch.save({**files.state(), "conv.weight": TOUCH}, path)),
    "the options of a script": (4, _beside(argparse.Namespace(lr=0.1))),
    "a number of NumPy's": (4, _beside(np.float64(0.5))),
    "a pickled module": (4, lambda path: torch.save(files.net(), path)),
    "an exported program": (4, _program),
    "a bomb": (4, _rezipped(lambda name, old: bytes(1 << 26) if name == "data/0" else old, zipfile.ZIP_DEFLATED)),
    "a pickle of another protocol": (3, lambda path: torch.save(TOUCH, path, pickle_protocol=4)),
    "a plain pickle": (3, lambda path: path.write_bytes(pickle.dumps(TOUCH))),
    "no bytes": (3, lambda path: path.write_bytes(b"")),
    "the first half": (3, _part("plain.pt", 0.5)),
    "all but the end": (3, _part("plain.pt", 0.99)),
    "the first half of the legacy form": (3, _part("legacy.pt", 0.5)),
    "the first half of a safetensors file": (3, _part("plain.safetensors", 0.5)),
    "a flipped bit in a tensor": (3, _flipped("plain.pt", lambda content: content.index(b"data/0") + 200)),
    "a flipped bit in the pickle": (3, _flipped("plain.pt", lambda content: content.index(b"conv.weight"))),
    "a flipped bit in a header": (3, _flipped("plain.safetensors", lambda content: content.index(b'"F32"') + 1)),
    "a record that is missing": (3, _rezipped(lambda name, old: None if name == "data/0" else old)),
    "a record that is too short": (3, _rezipped(lambda name, old: old[:8] if name == "data/0" else old)),
    "a record that is too long": (3, _rezipped(lambda name, old: old + old if name == "data/0" else old)),
    "a record in two lengths": (3, _twice("data/0")),
    "a record called by a number": (3, _pickle(_renamed(b"X\x01\x00\x00\x000", b"K\x00"))),
    "a tensor larger than its storage": (3, _pickle(_renamed(b"K\x04\x85", b"M\xff\x7f\x85"))),
    "a tensor without arguments": (3, _pickle(b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(K\x01tR.")),
    "a pickle of nonsense": (3, _pickle(b"garbage")),
    "a list in a list in a list": (3, _pickle(_nested(50_000))),
    "a dict that holds itself": (3, _pickle(b"\x80\x02}q\x00X\x05\x00\x00\x00modelq\x01h\x00s.")),
    "a header longer than the file": (3, _safetensors({}, length=1 << 40)),
    "a header that is no JSON": (3, _safetensors(b'{"a":')),
    "tensors that overlap": (3, _safetensors({"a": _entry(0, 8, [2]), "b": _entry(4, 12, [2])}, bytes(12))),
    "a tensor beyond the end": (3, _safetensors({"a": _entry(0, 1 << 40, [1 << 38])}, bytes(4))),
    "a shape that overflows": (3, _safetensors({"a": _entry(0, 4, [1 << 62, 1 << 62])}, bytes(4))),
    "other shapes": (3, _changed("", conv_weight=torch.zeros(4, 3, 5, 5))),
    "a tensor that is missing": (3, _changed("", conv_weight=None)),
    "tensors too many": (3, _changed("more")),
    "a weight without data": (3, _changed("", conv_weight=torch.empty(4, 3, 3, 3, device="meta"))),
    "a sparse weight": (3, _changed("", conv_weight=torch.ones(4, 3, 3, 3).to_sparse())),
    "a quantised weight": (3, _quantised),
    "a weight of integers": (3, _changed("", conv_weight=torch.ones(4, 3, 3, 3, dtype=torch.int8))),
    "TorchScript": (3, _script),
    "a folder": (3, lambda path: path.mkdir()),
    "a link to itself": (3, lambda path: path.symlink_to(path)),
    "a link to nothing": (3, lambda path: path.symlink_to("nothing")),
    "a pipe": (3, os.mkfifo),
    "a tar archive": (3, _tar),
    "a compressed file": (3, lambda path: path.write_bytes(gzip.compress(b"model"))),
    "a web page": (3, lambda path: path.write_bytes(b"<!DOCTYPE html><title>Log in</title>")),
    "a safetensors file of no tensors": (3, lambda path: save_file({}, path)),
}

FORBIDDEN = (
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "os.fork",
    "subprocess.",
    "socket.",
    "shutil.",
    "pickle.",
    "exec",
)
"""The audit events of running code, by how they begin."""
WRITING = ("os.mkdir", "os.remove", "os.rename", "os.link", "os.symlink", "os.truncate")


def open_each(folder: Path) -> dict[str, dict[str, object]]:
    """Convert every file in a folder; how that ended, and which forbidden things Python was asked to do meanwhile."""
    from bnfold.cli.entry import run

    codecs.lookup("cp437")  # of names in zip archives; a codec is a module that is imported when it is needed
    seen: list[str] = []
    watching = False

    def watch(event: str, arguments: tuple[object, ...]) -> None:
        writes = event == "open" and isinstance(arguments[1], str) and arguments[1] not in {"r", "rb"}
        if watching and (event.startswith((*FORBIDDEN, *WRITING)) or writes):
            seen.append(f"{event} {arguments}"[:200])

    sys.addaudithook(watch)
    outcomes: dict[str, dict[str, object]] = {}
    good = folder.parent / "good.pt"
    files.STATE_FILES["plain.pt"](good)
    for path in (good, good, *sorted(folder.iterdir())):
        seen.clear()
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            watching = path is not good  # the first two times whatever is needed is imported
            code = run(["convert", str(path), "--model", files.FACTORY, "--input", files.SHAPE, "--force"])
            watching = False
        outcomes[path.name] = {"code": code, "out": out.getvalue(), "err": err.getvalue(), "seen": list(seen)}
    return outcomes


if __name__ == "__main__":
    print(json.dumps(open_each(Path(sys.argv[1]))))  # noqa: T201 - the answer to the process that asked
