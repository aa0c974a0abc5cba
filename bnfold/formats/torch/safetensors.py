"""Safetensors files, whole or in shards: read by the library, written here.

The library writes a header's metadata in random order, and tensors in one of its own; here the same checkpoint gives
the same bytes, in the order in which the tensors came. The format: https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch

from bnfold.errors import InputError
from bnfold.formats.torch.trusted import first_line

if TYPE_CHECKING:
    from _typeshed import SupportsWrite

DTYPES: Final = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.complex64: "C64",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint64: "U64",
    torch.uint32: "U32",
    torch.uint16: "U16",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
_ALIGNMENT: Final = 8
"""The header is filled up with spaces to a multiple of this many bytes."""
_METADATA: Final = "__metadata__"


@dataclass(frozen=True, eq=False)
class Safetensors:
    """What a safetensors file holds: its tensors in the order of their bytes, and its metadata."""

    tensors: Mapping[str, torch.Tensor]
    metadata: Mapping[str, str]


def read_safetensors(path: Path) -> Safetensors:
    """Read a safetensors file. InputError where it is corrupt."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
        places = _places(path)
    except (SafetensorError, OSError) as error:
        raise InputError(
            f"the safetensors file cannot be read: {first_line(error)}",
            where=str(path),
            remedy="copy or download it again, or save it again with safetensors.torch.save_file",
        ) from error
    return Safetensors(OrderedDict((name, found[name]) for name in sorted(found, key=places.__getitem__)), metadata)


def write_safetensors(
    stream: SupportsWrite[bytes | memoryview], tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]
) -> None:
    """Write tensors in their order, but larger elements first: each then lies at a multiple of its size."""
    names = sorted(tensors, key=lambda name: -tensors[name].element_size())
    header = _header([(name, tensors[name]) for name in names], metadata)
    stream.write(len(header).to_bytes(8, "little"))
    stream.write(header)
    for name in names:
        stream.write(_bytes_of(tensors[name]))


def _header(tensors: Iterable[tuple[str, torch.Tensor]], metadata: Mapping[str, str]) -> bytes:
    entries: dict[str, Any] = {_METADATA: dict(metadata)} if metadata else {}
    begin = 0
    for name, tensor in tensors:
        end = begin + tensor.numel() * tensor.element_size()
        entries[name] = {"dtype": _dtype(name, tensor), "shape": list(tensor.shape), "data_offsets": [begin, end]}
        begin = end
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode("utf-8")
    return text + b" " * (-len(text) % _ALIGNMENT)


def _dtype(name: str, tensor: torch.Tensor) -> str:
    """The format's word for a dtype; InputError where it has none, or the tensor is no ordinary array."""
    if tensor.layout is torch.strided and not tensor.is_quantized and tensor.dtype in DTYPES:
        return DTYPES[tensor.dtype]
    kind = tensor.dtype if tensor.layout is torch.strided else tensor.layout
    raise InputError(
        f"safetensors cannot hold the tensor {name!r}, which is stored as {str(kind).removeprefix('torch.')}",
        remedy="write a .pt file instead",
    )


def _bytes_of(tensor: torch.Tensor) -> memoryview:
    flat = tensor.detach().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().data if flat.numel() else memoryview(b"")


def _places(path: Path) -> dict[str, int]:
    """Where each tensor's bytes begin; the library has checked the header already."""
    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        header = json.loads(stream.read(length))
    return {name: entry["data_offsets"][0] for name, entry in header.items() if name != _METADATA}
