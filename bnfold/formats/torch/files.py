"""Checkpoints: state_dicts in .pt, .pth and .safetensors, read without running code and written byte for byte alike."""

from __future__ import annotations

import io
import os
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from torch import nn

from bnfold.errors import InputError, UnsafeError, UsageError
from bnfold.files.recognise import Kind, require_model
from bnfold.formats.torch.devices import Devices, written_as
from bnfold.formats.torch.entries import entries_of, states_in
from bnfold.formats.torch.pickles import unpickled
from bnfold.formats.torch.safetensors import read_safetensors, write_safetensors
from bnfold.formats.torch.shards import Shards, read_shards
from bnfold.formats.torch.states import StoredState
from bnfold.formats.torch.structure import Structure
from bnfold.formats.torch.trusted import a_or_an

if TYPE_CHECKING:
    from _typeshed import SupportsWrite

    from bnfold.files.writing import Content

CheckpointKind = Literal["pt", "safetensors", "shards"]
FORMATS = {"pt": "torch-state-dict", "safetensors": "safetensors", "shards": "safetensors-shards"}
"""What the reports call the kinds of checkpoints."""
STRUCTURE_KEY = "bnfold"


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A file of tensors: the state_dict of a network, perhaps copies of it, and whatever else a script left there.

    ``states`` are by the key that they stand under in a .pt file, the network itself first; a file that is nothing
    but a state_dict has one without a key, "". ``entries`` is the whole content of a .pt file with keys.
    """

    kind: CheckpointKind
    states: Mapping[str, StoredState]
    entries: Mapping[object, object] = field(default_factory=dict)
    metadata: Mapping[str, str] = field(default_factory=dict)
    """What a safetensors file says of itself."""
    shards: Shards | None = None
    devices: Devices = field(default_factory=Devices)

    @property
    def key(self) -> str:
        """The key of the network itself."""
        return next(iter(self.states))

    def holding(self, states: Mapping[str, StoredState]) -> Checkpoint:
        """This checkpoint with other states under its keys; folded tensors keep the devices of what they replace."""
        devices: dict[torch.Tensor, str] = {}
        for key, state in states.items():
            before = self.states[key].stored
            for name, tensor in state.stored.items():
                source = before.get(name, before.get(f"{name.removesuffix('bias')}weight"))
                devices[tensor] = self.devices.of(source) if source is not None else ""
        return replace(self, states={**self.states, **states}, devices=self.devices.giving(devices))

    def files(self, target: Path) -> dict[Path, Content]:
        """The file, or the shards and their index at ``target``; the same checkpoint gives the same bytes."""
        if self.shards is not None:
            return self.shards.contents(self.states[self.key].stored, self._structure(), target)
        return {target: self._write_safetensors if self.kind == "safetensors" else self._write_pt}

    def _write_safetensors(self, stream: SupportsWrite[bytes | memoryview]) -> None:
        write_safetensors(stream, self.states[self.key].stored, {**self.metadata, **self._structure()})

    def _structure(self) -> dict[str, str]:
        structure = self.states[self.key].structure
        return {STRUCTURE_KEY: structure.to_json()} if structure != Structure() else {}

    def _write_pt(self, stream: SupportsWrite[bytes | memoryview]) -> None:
        named = {key: _with_metadata(state) for key, state in self.states.items()}
        content = named[""] if "" in named else {key: named.get(str(key), value) for key, value in self.entries.items()}
        # Into memory: torch.save writes the name of a file that it is given into the archive.
        archive = io.BytesIO()
        with written_as(self.devices):
            torch.save(content, archive)
        stream.write(archive.getvalue())


def read_checkpoint(path: Path, key: str | None = None) -> Checkpoint:
    """Read a file of tensors, whatever its name is; ``key`` chooses the state_dict in a training checkpoint.

    UnsafeError where it holds code, InputError where it is corrupt, UsageError where there is no such key.
    """
    kind = require_model(path)
    if kind is Kind.ONNX:
        raise InputError("the file is an ONNX model, not a checkpoint", where=str(path))
    if kind is Kind.PT2:
        raise UnsafeError(
            "the file is an exported program (.pt2); loading it can run its code",
            where=str(path),
            remedy="give --trust-code (and no --model) if you trust where it comes from",
        )
    if kind in {Kind.SAFETENSORS, Kind.SAFETENSORS_INDEX} and key is not None:
        raise UsageError("a safetensors file has no keys", where=str(path), remedy="leave --key out")
    if kind is Kind.SAFETENSORS:
        return _in_safetensors(path)
    if kind is Kind.SAFETENSORS_INDEX:
        tensors, shards = read_shards(path)
        state = StoredState(tensors, _structure(shards.properties.get(STRUCTURE_KEY), path))
        return Checkpoint("shards", {"": state}, shards=shards)
    return _in_pt(path, kind, key)


def _in_safetensors(path: Path) -> Checkpoint:
    found = read_safetensors(path)
    metadata = {name: value for name, value in found.metadata.items() if name != STRUCTURE_KEY}
    state = StoredState(found.tensors, _structure(found.metadata.get(STRUCTURE_KEY), path))
    return Checkpoint("safetensors", {"": state}, metadata=metadata)


def _in_pt(path: Path, kind: Kind, key: str | None) -> Checkpoint:
    devices = Devices()
    content = unpickled(path, kind, devices)
    states = {name: _state_of(named, path) for name, named in states_in(content, key, path).items()}
    return Checkpoint("pt", states, entries_of(content), devices=devices)


def _state_of(named: Mapping[str, torch.Tensor], path: Path) -> StoredState:
    """A state_dict, and what stands in the metadata that torch keeps with it."""
    metadata = getattr(named, "_metadata", None)
    versions = dict(metadata) if isinstance(metadata, Mapping) else {}
    entry = versions.pop(STRUCTURE_KEY, None)
    structure = entry.get("structure") if isinstance(entry, Mapping) else None
    return StoredState(OrderedDict(named), _structure(structure, path), versions)


def _structure(text: object, path: Path) -> Structure:
    return Structure() if text is None else Structure.from_json(str(text), where=str(path))


def _with_metadata(state: StoredState) -> OrderedDict[str, torch.Tensor]:
    """A state_dict as torch writes it, with what was folded in the metadata that torch itself keeps there."""
    named = OrderedDict(state.stored)
    metadata = OrderedDict(state.versions)
    if state.structure != Structure():
        metadata[STRUCTURE_KEY] = {"structure": state.structure.to_json()}
    if metadata:
        vars(named)["_metadata"] = metadata
    return named


def load_folded(module: nn.Module, path: str | os.PathLike[str], *, key: str | None = None) -> nn.Module:
    """Load a folded checkpoint into a freshly made module of the original architecture, in place, and return it.

    Its batch norms become Identity and its layers gain biases as the checkpoint's record says; then every tensor is
    loaded strictly. ``key`` chooses a state_dict in a file that has several. InputError where it does not fit.
    """
    if not isinstance(module, nn.Module):
        raise UsageError(
            f"{a_or_an(module)} is no nn.Module to load into",
            remedy="give a fresh module of the original architecture, then the path: load_folded(MyNet(), PATH)",
        )
    checkpoint = read_checkpoint(Path(path), key)
    checkpoint.states[checkpoint.key].fit(module, str(path)).load_into(module, str(path))
    return module
