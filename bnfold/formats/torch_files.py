"""Checkpoints: state_dicts in .pt, .pth and .safetensors, read without running code and written byte for byte alike."""

from __future__ import annotations

import io
import pickle
import re
import warnings
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, TypeGuard

import torch
from torch import nn

from bnfold.errors import InputError, UnsafeError
from bnfold.files.recognise import Kind, require_model
from bnfold.formats.torch_structure import Structure
from bnfold.formats.torch_trusted import a_or_an, first_line

WRAPPERS = ("state_dict", "model", "model_state_dict")
"""Keys under which training scripts keep the model, in the order in which they are tried."""
PREFIX = "module."
"""What DataParallel puts before every name."""
STRUCTURE_KEY = "bnfold"
OPTIMISER_WORDS = ("optim", "scheduler", "scaler")
MISFITS_SHOWN = 5


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A state_dict and what surrounds it in its file.

    ``wrapper`` is the key that it stands under, if any, ``others`` the rest of the file, ``prefix`` what stands before
    each name in the file alone, and ``structure`` how bnfold had changed the architecture.
    """

    state: OrderedDict[str, torch.Tensor]
    kind: Literal["pt", "safetensors"]
    wrapper: str = ""
    others: Mapping[object, object] = field(default_factory=dict)
    prefix: str = ""
    structure: Structure = field(default_factory=Structure)
    versions: Mapping[str, object] = field(default_factory=dict)
    """torch's own metadata of a state_dict: the version of each module, by path."""

    def fitting(self, module: nn.Module) -> Checkpoint:
        """This checkpoint without the prefix of DataParallel, unless ``module`` has it too."""
        names = module.state_dict()
        if not self.state or not all(name.startswith(PREFIX) for name in self.state):
            return self
        if names and all(name.startswith(PREFIX) for name in names):
            return self
        state = OrderedDict((name.removeprefix(PREFIX), tensor) for name, tensor in self.state.items())
        return replace(self, state=state, prefix=PREFIX, structure=self.structure.without(PREFIX))

    def load_into(self, module: nn.Module, where: str) -> None:
        """Load every tensor strictly; InputError that shows which names do not fit."""
        try:
            misfits = module.load_state_dict(self.state, strict=False)
        except RuntimeError as error:
            shapes = re.findall(r"size mismatch for ([^:]+)", str(error)) or [first_line(error)]
            raise _misfit(f"other shapes: {_some(shapes)}", where) from error
        names = module.state_dict(keep_vars=True)
        present = {id(names[name]) for name in self.state if name in names}
        missing = [name for name in misfits.missing_keys if id(names.get(name)) not in present]
        if missing or misfits.unexpected_keys:
            texts = (f"missing: {_some(missing)}", f"unexpected: {_some(misfits.unexpected_keys)}")
            raise _misfit("; ".join(text for text in texts if not text.endswith(": ")), where)

    def holding(self, module: nn.Module, structure: Structure) -> Checkpoint:
        """This checkpoint with the tensors of the folded ``module``; tensors of no other use are left out."""
        current = module.state_dict(keep_vars=True)
        gained = {id(current[f"{path}.bias"]) for path in structure.biases}
        names = set(self.state)
        # A layer that is registered twice gains its bias under each of the names that the file knows it by.
        names |= {
            name for name, tensor in current.items() if id(tensor) in gained and f"{name[:-4]}weight" in self.state
        }
        state = OrderedDict((name, tensor.detach()) for name, tensor in current.items() if name in names)
        return replace(self, state=state, structure=structure, versions=getattr(current, "_metadata", {}))

    def to_bytes(self) -> bytes:
        """The file's content; the same checkpoint gives the same bytes."""
        named = OrderedDict((self.prefix + name, tensor.contiguous()) for name, tensor in self.state.items())
        structure = self.structure.below(self.prefix).to_json()
        if self.kind == "safetensors":
            from safetensors.torch import save

            # One key: safetensors writes several in random order.
            return bytes(save(_apart(named), metadata={STRUCTURE_KEY: structure}))
        metadata = OrderedDict((f"{self.prefix}{path}".rstrip("."), version) for path, version in self.versions.items())
        metadata[STRUCTURE_KEY] = {"structure": structure}
        vars(named)["_metadata"] = metadata  # where torch itself keeps the metadata of a state_dict
        content = {self.wrapper: named, **self.others} if self.wrapper else named
        # Into memory: torch.save writes the name of a file that it is given into the archive.
        stream = io.BytesIO()
        torch.save(content, stream)
        return stream.getvalue()


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a file of tensors, whatever its name is. UnsafeError where it holds code, InputError where it is corrupt."""
    kind = require_model(path)
    if kind is Kind.SAFETENSORS:
        return _read_safetensors(path)
    if kind is Kind.ONNX:
        raise InputError("the file is an ONNX model, not a checkpoint", where=str(path))
    return _read_pt(path)


def dropped_entries(checkpoint: Checkpoint) -> tuple[Checkpoint, tuple[str, ...]]:
    """The checkpoint without optimiser state, which no longer fits, and the names of what was dropped."""
    dropped = {key for key in checkpoint.others if any(word in str(key).lower() for word in OPTIMISER_WORDS)}
    others = {key: value for key, value in checkpoint.others.items() if key not in dropped}
    return replace(checkpoint, others=others), tuple(str(key) for key in checkpoint.others if key in dropped)


def unfolded_entries(checkpoint: Checkpoint) -> tuple[str, ...]:
    """The names of what else the file holds of the same network, such as a moving average: carried as it is."""
    return tuple(
        str(key)
        for key, value in checkpoint.others.items()
        if _is_state(value) and not checkpoint.state.keys().isdisjoint(name.removeprefix(PREFIX) for name in value)
    )


def _read_safetensors(path: Path) -> Checkpoint:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            state = OrderedDict((name, file.get_tensor(name)) for name in file.keys())  # noqa: SIM118 - not a dict
    except (SafetensorError, OSError) as error:
        raise _corrupt("safetensors file", error, path) from error
    return Checkpoint(state, "safetensors", structure=_structure(metadata.get(STRUCTURE_KEY), path))


def _read_pt(path: Path) -> Checkpoint:
    try:
        # A stream: torch.load judges a file by its name, too.
        with path.open("rb") as stream, warnings.catch_warnings():
            # Either the reader copes with the other protocol, or what it raises says so.
            warnings.filterwarnings("ignore", message="Detected pickle protocol", category=UserWarning)
            content = torch.load(stream, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "Unsupported operand" in str(error):
            raise _corrupt("checkpoint", error, path) from error
        found = re.search(r"GLOBAL ([\w.]+)", str(error))
        raise UnsafeError(
            f"the file holds more than tensors{f': {found[1]}' if found else ''}; loading it would run its code",
            where=str(path),
            remedy="save the state_dict alone, or give --trust-code (and no --model) for a pickled module",
        ) from error
    except Exception as error:  # a broken file leads torch's reader to whatever error its bytes happen to name
        raise _corrupt("checkpoint", error, path) from error
    return _checkpoint_of(content, path)


def _corrupt(what: str, error: Exception, path: Path) -> InputError:
    if isinstance(error, pickle.UnpicklingError):
        reason = "it is no pickle of protocol 2, the one that torch.save writes unless told otherwise"
    else:
        reason = first_line(error)
    return InputError(
        f"the {what} cannot be read: {reason}",
        where=str(path),
        remedy="copy or download it again, or save it again with torch's defaults",
    )


def _checkpoint_of(content: object, path: Path) -> Checkpoint:
    """The state_dict in what torch.load gave, plain or under a known key."""
    if _is_state(content):
        return _in_pt(content, path)
    if isinstance(content, Mapping):
        for wrapper in WRAPPERS:
            if _is_state(content.get(wrapper)):
                others = {key: value for key, value in content.items() if key != wrapper}
                return replace(_in_pt(content[wrapper], path), wrapper=wrapper, others=others)
    raise _no_state(content, path)


def _no_state(content: object, path: Path) -> InputError:
    """What is wrong with a file that holds no state_dict, or one in which not all is a tensor."""
    candidates = [content, *(content.get(wrapper) for wrapper in WRAPPERS)] if isinstance(content, Mapping) else []
    for candidate in candidates:
        values = candidate if isinstance(candidate, Mapping) else {}
        strangers = [str(name) for name, value in values.items() if not isinstance(value, torch.Tensor)]
        if 0 < 2 * len(strangers) < len(values):
            return InputError(
                f"the state_dict holds more than tensors: {_some(strangers)}",
                where=str(path),
                remedy="save model.state_dict(), and keep what else belongs to it under keys of its own beside it",
            )
    return InputError(
        f"the file holds {a_or_an(content)}, and no state_dict under {', '.join(WRAPPERS)}",
        where=str(path),
        remedy="save model.state_dict() and give the architecture with --model pkg.module:factory",
    )


def _is_state(content: object) -> TypeGuard[Mapping[str, torch.Tensor]]:
    return (
        isinstance(content, Mapping)
        and bool(content)
        and all(isinstance(name, str) and isinstance(tensor, torch.Tensor) for name, tensor in content.items())
    )


def _in_pt(named: Mapping[str, torch.Tensor], path: Path) -> Checkpoint:
    metadata = getattr(named, "_metadata", None)
    entry = metadata.get(STRUCTURE_KEY) if isinstance(metadata, Mapping) else None
    structure = entry.get("structure") if isinstance(entry, Mapping) else None
    return Checkpoint(OrderedDict(named), "pt", structure=_structure(structure, path))


def _structure(text: object, path: Path) -> Structure:
    return Structure() if text is None else Structure.from_json(str(text), where=str(path))


def _apart(named: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors with memory of their own: safetensors refuses to store one tensor under two names."""
    result: dict[str, torch.Tensor] = {}
    seen: set[int] = set()
    for name, tensor in named.items():
        place = tensor.untyped_storage().data_ptr()
        result[name] = tensor.clone() if place in seen else tensor
        seen.add(place)
    return result


def _misfit(detail: str, where: str) -> InputError:
    return InputError(
        f"the checkpoint does not fit the architecture: {detail}",
        where=where,
        remedy="give with --model the factory of the network that was saved",
    )


def _some(names: list[str]) -> str:
    """At most five names, and how many more there are."""
    more = f" and {len(names) - MISFITS_SHOWN} more" if len(names) > MISFITS_SHOWN else ""
    return ", ".join(names[:MISFITS_SHOWN]) + more
