"""Is each record of a checkpoint as long as the storage that is read from it? Not every release of torch looks.

Older ones read on in whatever lies in memory behind a record that is too short. So the pickle is read before torch
reads it, with a stand-in for everything that it names: nothing is imported, and nothing of it runs.
"""

from __future__ import annotations

import io
import pickle
import zipfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Self

import torch

from bnfold.errors import InputError
from bnfold.files.names import printable

_PICKLE: Final = "data.pkl"


def require_whole_records(path: Path) -> None:
    """InputError where a record of the archive at ``path`` is longer or shorter than the storage that it stands for.

    The archive must be intact (``files.archive``). Raises what Python raises where its pickle cannot be read.
    """
    sizes: dict[str, set[int]] = defaultdict(set)
    with zipfile.ZipFile(path) as archive:
        for record in archive.infolist():
            sizes[_inner(record)].add(record.file_size)
        pickles = [archive.read(record) for record in archive.infolist() if _inner(record) == _PICKLE]
    for key, size in (storage for content in pickles for storage in _storages(content)):
        others = sizes[f"data/{key}".lower()] - {size}
        if others:
            raise InputError(
                f"the record data/{printable(key)} has {min(others):,} bytes, and the tensor in it needs {size:,}",
                where=str(path),
                remedy="copy or download it again; not every version of torch would notice",
            )


def _inner(record: zipfile.ZipInfo) -> str:
    """A record's name below the folder that all stand in, as torch compares names: whatever their case."""
    return record.filename.partition("/")[2].lower()


def _storages(content: bytes) -> Iterator[tuple[str, int]]:
    """The key and the bytes of each storage that a pickle refers to."""
    reader = _Reader(io.BytesIO(content), encoding="utf-8")
    reader.load()
    for reference in reader.references:
        match reference:
            case ("storage", type() as kind, str(key), _, int(count)):
                yield key, count * _element_bytes(kind.__name__)
            case _:
                raise ValueError(f"it refers to a storage as torch does not: {printable(str(reference))}")


def _element_bytes(name: str) -> int:
    """The size of what is stored in one of torch's classes of storages; those without a dtype count bytes."""
    return 1 if name == "UntypedStorage" else torch.serialization.StorageType(name).dtype.itemsize  # type: ignore[no-untyped-call]


class _StandIn:
    """Stands for whatever a pickle names, and for what is made with it: takes everything, and does nothing."""

    def __new__(cls, *_arguments: object) -> Self:
        """Of any arguments."""
        return super().__new__(cls)

    def __call__(self, *_arguments: object) -> Self:
        return self

    def __setitem__(self, _key: object, _value: object) -> None: ...

    def __setstate__(self, _state: object) -> None: ...

    def append(self, _item: object) -> None:
        """As to a list, and keep nothing."""


class _Reader(pickle.Unpickler):
    """Reads a pickle for its ``references`` to storages."""

    def __init__(self, stream: io.BytesIO, encoding: str) -> None:
        super().__init__(stream, encoding=encoding)
        self.references: list[object] = []

    def find_class(self, _module: str, name: str) -> type[_StandIn]:
        """A stand-in of the same name."""
        return type(name, (_StandIn,), {})

    def persistent_load(self, reference: object) -> _StandIn:
        """Note it."""
        self.references.append(reference)
        return _StandIn()
