"""Large tensors stay in their files until somebody asks for their values.

In the protobuf a reference says where the bytes lie: in the words of ONNX's external data, with the state in which the
file was found. Loading a ResNet-50 takes 8 ms this way, and next to no memory. Parsing all of it takes 150 ms and
twice its size, since protobuf copies what it parses, and it gives no memory back when a tensor is replaced.
"""

from __future__ import annotations

import math
import mmap
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Self

from onnx import TensorProto

from bnfold.core.rounding import PIECE_BYTES
from bnfold.errors import InputError

REFERENCED_FROM_BYTES: Final = 4096
"""Smaller tensors are parsed: shape inference reads some of them, and the system reads a page at least."""

MAPPED_BYTES: Final = 1 << 24
"""Of a tensor that is copied from file to file, so much is in memory at a time."""

_OURS: Final = os.urandom(16).hex()
"""In every reference of this process: a model's file cannot hold one that was made up, and so lead to other files."""

ITEM_BYTES: Final[dict[int, int]] = {
    TensorProto.FLOAT: 4,
    TensorProto.DOUBLE: 8,
    TensorProto.FLOAT16: 2,
    TensorProto.BFLOAT16: 2,
    TensorProto.INT8: 1,
    TensorProto.UINT8: 1,
    TensorProto.INT16: 2,
    TensorProto.UINT16: 2,
    TensorProto.INT32: 4,
    TensorProto.UINT32: 4,
    TensorProto.INT64: 8,
    TensorProto.UINT64: 8,
}
"""The types whose elements lie one after the other; those of four bits are packed, and strings are elsewhere."""


@dataclass(frozen=True)
class Reference:
    """The place of a tensor's bytes; ``state`` tells whether the file is still the one that was found."""

    file: Path
    offset: int
    length: int
    state: str

    @classmethod
    def of(cls, tensor: TensorProto) -> Self | None:
        """The reference in ``tensor``, None where it has its bytes itself; InputError where they were never loaded."""
        if tensor.data_location != TensorProto.EXTERNAL:
            return None
        entries = external_entries(tensor)
        if not is_reference(tensor):
            raise InputError(
                f"the data of the tensor {tensor.name!r} is not loaded",
                where=f"it lies in {entries.get('location', '')!r}",
                remedy="give the model's path, or load it with onnx.load",
            )
        file = Path(os.fsdecode(entries["location"].encode("latin-1")))
        return cls(file, int(entries["offset"]), int(entries["length"]), entries["state"])

    def fits(self, tensor: TensorProto) -> bool:
        """Whether ``tensor`` may refer for long: it is large, and its bytes are its elements."""
        elements = math.prod(tensor.dims)
        return self.length >= REFERENCED_FROM_BYTES and self.length == elements * ITEM_BYTES.get(tensor.data_type, 0)

    def put_into(self, tensor: TensorProto) -> None:
        """Let ``tensor`` refer, instead of what it has."""
        tensor.ClearField("raw_data")
        tensor.ClearField("external_data")
        tensor.data_location = TensorProto.EXTERNAL
        location = os.fsencode(self.file).decode("latin-1")  # a file's name may be any bytes, protobuf's text may not
        entries = {"location": location, "offset": self.offset, "length": self.length, "state": self.state}
        for key, value in entries.items():
            tensor.external_data.add(key=key, value=str(value))

    def read(self, tensor: str) -> memoryview:
        """The bytes, as a view of the file; ``tensor`` is for the error. Raises InputError where the file changed."""
        start = self.offset - self.offset % mmap.ALLOCATIONGRANULARITY
        end = self.offset + self.length
        try:
            with self.file.open("rb") as stream:
                if state_of(stream.fileno()) != self.state:
                    raise InputError(
                        "the file changed while it was being read", where=f"tensor {tensor!r} in {self.file}"
                    )
                if self.length == 0:
                    return memoryview(b"")
                mapped = mmap.mmap(stream.fileno(), end - start, access=mmap.ACCESS_READ, offset=start)
        except OSError as error:
            raise InputError(f"cannot be read: {error.strerror}", where=f"tensor {tensor!r} in {self.file}") from error
        return memoryview(mapped)[self.offset - start :]

    def pieces(self, tensor: str) -> Iterator[memoryview]:
        """The bytes as several views, one after the other: of a large tensor only a part is in memory. As ``read``."""
        for start in range(0, self.length, MAPPED_BYTES):
            length = min(MAPPED_BYTES, self.length - start)
            view = replace(self, offset=self.offset + start, length=length).read(tensor)
            yield from (view[place : place + PIECE_BYTES] for place in range(0, length, PIECE_BYTES))


def is_reference(tensor: TensorProto) -> bool:
    """Whether ``tensor`` refers by a reference of ours, and not by one that came with the model."""
    return external_entries(tensor).get("state", "").startswith(_OURS)


def external_entries(tensor: TensorProto) -> dict[str, str]:
    """What a tensor says about where its data is."""
    return {item.key: item.value for item in tensor.external_data}


def state_of(descriptor: int) -> str:
    """What changes when a file does."""
    found = os.fstat(descriptor)
    return f"{_OURS}:{found.st_dev}:{found.st_ino}:{found.st_size}:{found.st_mtime_ns}"


def embed(tensor: TensorProto) -> None:
    """Put the bytes that a tensor refers to, if it does, into it."""
    reference = Reference.of(tensor)
    if reference is None:
        return
    drop_reference(tensor)
    tensor.raw_data = bytes(reference.read(tensor.name))


def drop_reference(tensor: TensorProto) -> None:
    """Let a tensor neither refer nor have bytes."""
    tensor.ClearField("data_location")
    tensor.ClearField("external_data")
