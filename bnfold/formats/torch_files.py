"""Checkpoints: state_dicts in .pt, .pth and .safetensors, read without running code and written byte for byte alike."""

from __future__ import annotations

import io
import pickle
import re
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, TypeGuard

import torch
from torch import nn

from bnfold.errors import InputError, UnsafeError
from bnfold.formats.torch_apply import Structure
from bnfold.formats.torch_trusted import first_line

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

    ``wrapper`` is the key that it stands under, if any, ``others`` the rest of the file, ``prefix`` what stood before
    each name, and ``structure`` how bnfold had changed the architecture.
    """

    state: OrderedDict[str, torch.Tensor]
    kind: Literal["pt", "safetensors"]
    wrapper: str = ""
    others: Mapping[str, object] = field(default_factory=dict)
    prefix: str = ""
    structure: Structure = field(default_factory=Structure)
    versions: Mapping[str, object] = field(default_factory=dict)
    """torch's own metadata of a state_dict: the version of each module, by path."""

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
        names = set(self.state) | {f"{path}.bias" for path in structure.biases}
        current = module.state_dict()
        state = OrderedDict((name, tensor) for name, tensor in current.items() if name in names)
        return replace(self, state=state, structure=structure, versions=getattr(current, "_metadata", {}))

    def to_bytes(self) -> bytes:
        """The file's content; the same checkpoint gives the same bytes."""
        named = OrderedDict((self.prefix + name, tensor.contiguous()) for name, tensor in self.state.items())
        if self.kind == "safetensors":
            from safetensors.torch import save

            # One key: safetensors writes several in random order.
            return bytes(save(dict(named), metadata={STRUCTURE_KEY: self.structure.to_json()}))
        metadata = OrderedDict((f"{self.prefix}{path}".rstrip("."), version) for path, version in self.versions.items())
        metadata[STRUCTURE_KEY] = {"structure": self.structure.to_json()}
        vars(named)["_metadata"] = metadata  # where torch itself keeps the metadata of a state_dict
        content = {self.wrapper: named, **self.others} if self.wrapper else named
        # Into memory: torch.save writes the name of a file that it is given into the archive.
        stream = io.BytesIO()
        torch.save(content, stream)
        return stream.getvalue()


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a file of tensors. UnsafeError where it holds anything else, InputError where it is corrupt."""
    return _read_safetensors(path) if path.suffix == ".safetensors" else _read_pt(path)


def dropped_entries(checkpoint: Checkpoint) -> tuple[Checkpoint, tuple[str, ...]]:
    """The checkpoint without optimiser state, which no longer fits, and the names of what was dropped."""
    dropped = tuple(key for key in checkpoint.others if any(word in key.lower() for word in OPTIMISER_WORDS))
    others = {key: value for key, value in checkpoint.others.items() if key not in dropped}
    return replace(checkpoint, others=others), dropped


def _read_safetensors(path: Path) -> Checkpoint:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            state = OrderedDict((name, file.get_tensor(name)) for name in file.keys())  # noqa: SIM118 - not a dict
    except (SafetensorError, OSError) as error:
        raise InputError(f"the safetensors file is corrupt: {first_line(error)}", where=str(path)) from error
    return _unprefixed(state, "safetensors", structure=metadata.get(STRUCTURE_KEY))


def _read_pt(path: Path) -> Checkpoint:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL ([\w.]+)|Unsupported (?:global|class)[^\w]+([\w.]+)", str(error))
        name = next(filter(None, found.groups()), "") if found else ""
        raise UnsafeError(
            f"the file holds more than tensors{f': {name}' if name else ''}; loading it would run its code",
            where=str(path),
            remedy="Save the state_dict alone, or give --trust-code (and no --model) for a pickled module.",
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise InputError(f"the checkpoint cannot be read: {first_line(error)}", where=str(path)) from error
    return _checkpoint_of(content, path)


def _checkpoint_of(content: object, path: Path) -> Checkpoint:
    """The state_dict in what torch.load gave, plain or under a known key."""
    if _is_state(content):
        return _unprefixed(content, "pt")
    if isinstance(content, Mapping):
        for wrapper in WRAPPERS:
            if _is_state(content.get(wrapper)):
                others = {key: value for key, value in content.items() if key != wrapper}
                return _unprefixed(content[wrapper], "pt", wrapper=wrapper, others=others)
    kind = type(content).__name__
    raise InputError(
        f"the file holds a {kind}, and no state_dict under {', '.join(WRAPPERS)}",
        where=str(path),
        remedy="Save model.state_dict() and give the architecture with --model pkg.module:factory.",
    )


def _is_state(content: object) -> TypeGuard[Mapping[str, torch.Tensor]]:
    return isinstance(content, Mapping) and bool(content) and all(isinstance(v, torch.Tensor) for v in content.values())


def _unprefixed(
    named: Mapping[str, torch.Tensor],
    kind: Literal["pt", "safetensors"],
    *,
    wrapper: str = "",
    others: Mapping[str, object] | None = None,
    structure: str | None = None,
) -> Checkpoint:
    """A checkpoint whose names lost the prefix of DataParallel, where all have it."""
    prefix = PREFIX if named and all(name.startswith(PREFIX) for name in named) else ""
    state = OrderedDict((name.removeprefix(prefix), tensor) for name, tensor in named.items())
    if structure is None:
        structure = getattr(named, "_metadata", {}).get(STRUCTURE_KEY, {}).get("structure")
    parsed = Structure.from_json(structure) if structure is not None else Structure()
    return Checkpoint(state, kind, wrapper, others or {}, prefix, parsed)


def _misfit(detail: str, where: str) -> InputError:
    return InputError(
        f"the checkpoint does not fit the architecture: {detail}",
        where=where,
        remedy="Give with --model the factory of the network that was saved.",
    )


def _some(names: list[str]) -> str:
    """At most five names, and how many more there are."""
    more = f" and {len(names) - MISFITS_SHOWN} more" if len(names) > MISFITS_SHOWN else ""
    return ", ".join(names[:MISFITS_SHOWN]) + more
