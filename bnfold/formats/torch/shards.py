"""Sharded safetensors: ``*.safetensors.index.json`` names the file of each tensor, all beside it."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import torch

from bnfold.errors import InputError, UnsafeError
from bnfold.files.containment import contained
from bnfold.files.recognise import Kind, recognise
from bnfold.files.suffixes import INDEX
from bnfold.files.writing import Content, copy_of
from bnfold.formats.torch.safetensors import Safetensors, read_safetensors, write_safetensors

_SIZE_LIMIT: Final = 100_000_000
"""The longest index that is read, in bytes: as for a safetensors file's own header."""


@dataclass(frozen=True, eq=False)
class Shards:
    """An index as it was read, the file of each tensor, and the metadata of each file."""

    index: Path
    document: Mapping[str, Any]
    place: Mapping[str, str]
    metadata: Mapping[str, Mapping[str, str]]

    @property
    def files(self) -> tuple[Path, ...]:
        """The shards, in the order of their names."""
        return tuple(self.index.parent / name for name in sorted(self.metadata))

    @property
    def properties(self) -> Mapping[str, Any]:
        """What the index says of the whole."""
        properties: Mapping[str, Any] = self.document.get("metadata") or {}
        return properties

    def contents(
        self, tensors: Mapping[str, torch.Tensor], added: Mapping[str, str], target: Path
    ) -> dict[Path, Content]:
        """The shards with ``tensors``, each in the file it was in, and last their index, which lies at ``target``."""
        place = {name: self._file_of(name) for name in tensors}
        contents: dict[Path, Content] = {}
        for file, metadata in self.metadata.items():
            held = {name: tensor for name, tensor in tensors.items() if place[name] == file}
            contents[target.parent / self._renamed(file, target)] = partial(
                write_safetensors, tensors=held, metadata=metadata
            )
        properties = {**self.properties, **added}
        counts = {
            "total_size": sum(tensor.numel() * tensor.element_size() for tensor in tensors.values()),
            "total_parameters": sum(tensor.numel() for tensor in tensors.values()),
        }
        properties |= {name: count for name, count in counts.items() if name in properties}
        contents[target] = self._index(target, properties, place)
        return contents

    def _file_of(self, name: str) -> str:
        """The file of a tensor; a new one goes to what else its module has, or to the last file."""
        if name in self.place:
            return self.place[name]
        module = f"{name.rpartition('.')[0]}."
        beside = (file for other, file in self.place.items() if other.startswith(module))
        return next(beside, max(self.metadata))

    def copies(self, target: Path) -> dict[Path, Content]:
        """The shards and their index as they are, beside ``target``; only names of files may change."""
        contents: dict[Path, Content] = {
            target.parent / self._renamed(file, target): copy_of(self.index.parent / file) for file in self.metadata
        }
        is_same = _base(self.index) == _base(target)
        contents[target] = self.index.read_bytes() if is_same else self._index(target, self.properties, self.place)
        return contents

    def _index(self, target: Path, properties: Mapping[str, Any], place: Mapping[str, str]) -> bytes:
        weight_map = {name: self._renamed(file, target) for name, file in place.items()}
        document = {**self.document, "metadata": properties, "weight_map": weight_map}
        return (json.dumps(document, indent=2, ensure_ascii=False) + "\n").encode("utf-8")

    def _renamed(self, file: str, target: Path) -> str:
        """A shard's name beside ``target``: it begins as the index does, and keeps its number."""
        before, after = _base(self.index), _base(target)
        if before == after:
            return file
        return after + file.removeprefix(before) if file.startswith(before) else f"{after}.{file}"


def read_shards(path: Path) -> tuple[dict[str, torch.Tensor], Shards]:
    """Read an index and all its shards. InputError where they do not fit together, UnsafeError for a file elsewhere."""
    document = _document(path)
    place: Mapping[str, str] = document["weight_map"]
    read: dict[str, Safetensors] = {}
    for name in dict.fromkeys(place.values()):
        file = contained(path, name) if Path(name).name == name else None
        if file is None:
            raise UnsafeError(
                "the index names a file outside of its own folder",
                where=f"{path}: {name!r}",
                remedy="shards lie beside their index",
            )
        if recognise(file) is not Kind.SAFETENSORS:
            raise InputError(
                f"the shard {name!r} is {recognise(file).value}",
                where=str(path),
                remedy="bnfold reads shards of the safetensors format: save the model again in it",
            )
        read[name] = read_safetensors(path.parent / name)
    tensors = OrderedDict(pair for shard in read.values() for pair in shard.tensors.items())
    found = {tensor: name for name, shard in read.items() for tensor in shard.tensors}
    if found != dict(place) or len(tensors) < sum(len(shard.tensors) for shard in read.values()):
        odd = sorted(name for name in found.keys() | place.keys() if found.get(name) != place.get(name))[:1]
        raise InputError(
            f"the index and its shards do not fit together{f': {odd[0]!r}' if odd else ''}",
            where=str(path),
            remedy="copy or download all of them again",
        )
    return tensors, Shards(path, document, dict(place), {name: shard.metadata for name, shard in read.items()})


def _document(path: Path) -> dict[str, Any]:
    if path.stat().st_size > _SIZE_LIMIT:
        raise UnsafeError(f"the index has more than {_SIZE_LIMIT:,} bytes", where=str(path))
    try:
        document = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise _corrupt(path) from error
    if not _is_index(document):
        raise _corrupt(path)
    return dict(document)


def _is_index(document: object) -> bool:
    """Whether this has a weight_map of names to names and, if any, metadata with keys."""
    if not isinstance(document, dict) or not isinstance(document.get("metadata") or {}, dict):
        return False
    places = document.get("weight_map")
    return isinstance(places, dict) and all(isinstance(file, str) for file in places.values())


def _corrupt(path: Path) -> InputError:
    return InputError(
        "the index of the shards is corrupt: it is no JSON object with a weight_map of tensors to files",
        where=str(path),
        remedy="copy or download it again",
    )


def _base(index: Path) -> str:
    """What the names of an index and its shards begin with."""
    return index.name.removesuffix(INDEX)
