"""The tensors of one network as a file holds them, and how their names are those of a module."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TypeGuard

import torch
from torch import nn

from bnfold.errors import InputError
from bnfold.formats.torch.structure import STATISTICS, Structure, plain_name
from bnfold.formats.torch.trusted import first_line

AVERAGED = "n_averaged"
"""The counter that torch.optim.swa_utils.AveragedModel keeps beside the module whose moving average it is."""
MISFITS_SHOWN = 5


@dataclass(frozen=True, eq=False)
class StoredState:
    """A state_dict in its file's names and order.

    ``names`` gives the module's name for each of the file's; they differ by what DataParallel and torch.compile put
    between. ``structure`` says, in the module's names, how bnfold had changed the architecture.
    """

    stored: Mapping[str, torch.Tensor]
    structure: Structure = field(default_factory=Structure)
    versions: Mapping[str, object] = field(default_factory=dict)
    """torch's own metadata of a state_dict: the version of each module, by path."""
    names: Mapping[str, str] = field(default_factory=dict)

    @property
    def tensors(self) -> dict[str, torch.Tensor]:
        """By the module's names."""
        return {self.names.get(name, name): tensor for name, tensor in self._own()}

    def fit(self, module: nn.Module, where: str) -> StoredState:
        """Give ``module`` the structure of this state, and return this state in the module's names.

        ``module.`` and ``_orig_mod.`` may be more or fewer in the file.
        """
        structure = self.structure.named_as_in(module)
        structure.reshape(module, where)
        known = {plain_name(name): name for name in module.state_dict()}
        names = {name: known.get(plain_name(name), plain_name(name)) for name, _ in self._own()}
        is_ambiguous = len(set(names.values())) < len(names) or len(known) < len(module.state_dict())
        if is_ambiguous or names.keys() <= set(module.state_dict()):
            names = {}
        return replace(self, names=names, structure=structure)

    def load_into(self, module: nn.Module, where: str) -> None:
        """Load every tensor strictly; InputError that shows which names do not fit."""
        without_data = [name for name, tensor in self.stored.items() if tensor.is_meta]
        if without_data:
            raise InputError(
                f"tensors without data, of the device meta: {some(without_data)}",
                where=where,
                remedy="save the state_dict of a module that has been given its weights",
            )
        tensors = OrderedDict(self.tensors)
        vars(tensors)["_metadata"] = self._versions_of_module()
        try:
            misfits = module.load_state_dict(tensors, strict=False)
        except (RuntimeError, NotImplementedError) as error:
            shapes = re.findall(r"size mismatch for ([^:]+)", str(error))
            detail = f"other shapes: {some(shapes)}" if shapes else self._uncopied() or first_line(error)
            raise misfit(detail, where) from error
        names = module.state_dict(keep_vars=True)
        present = {id(names[name]) for name in tensors if name in names}
        missing = [name for name in misfits.missing_keys if id(names.get(name)) not in present]
        if missing or misfits.unexpected_keys:
            texts = (f"missing: {some(missing)}", f"unexpected: {some(misfits.unexpected_keys)}")
            raise misfit("; ".join(text for text in texts if not text.endswith(": ")), where)

    def holding(self, before: nn.Module, after: nn.Module, structure: Structure) -> StoredState:
        """This state once ``before``, into which it was loaded, has become ``after``, folded or calibrated.

        What that did not touch stays the file's own tensor, with its dtype, its strides and its memory.
        """
        old, new = (module.state_dict(keep_vars=True) for module in (before, after))
        gained = {id(new[f"{path}.bias".removeprefix(".")]) for path in structure.biases}
        stored: OrderedDict[str, torch.Tensor] = OrderedDict()
        names: dict[str, str] = {}
        for file_name, tensor in self.stored.items():
            name = self.names.get(file_name, file_name)
            if name not in old and name not in new:
                stored[file_name] = tensor  # the counter of an average
                continue
            if name not in new:
                continue
            stored[file_name] = tensor if new[name] is old.get(name) else _in_place_of(tensor, new[name], file_name)
            names[file_name] = name
            bias, file_bias = _bias_beside(name), _bias_beside(file_name)
            if bias in new and id(new[bias]) in gained and file_bias not in self.stored:
                stored[file_bias] = new[bias].detach()
                names[file_bias] = bias
        for path in structure.statistics:
            for name in (f"{path}.{buffer}".removeprefix(".") for buffer in STATISTICS):
                if name in new and name not in names.values():
                    file_name = self._prefix + name
                    stored[file_name], names[file_name] = new[name].detach(), name
        gone = {f"{path}." for path in structure.identities}
        versions = {path: version for path, version in self.versions.items() if f"{plain_name(path)}." not in gone}
        return replace(self, stored=stored, names=names, structure=structure, versions=versions)

    @property
    def _prefix(self) -> str:
        """What the file puts before a module's names: ``module.``, or nothing."""
        return next((stored.removesuffix(name) for stored, name in self.names.items() if stored.endswith(name)), "")

    def _own(self) -> Iterator[tuple[str, torch.Tensor]]:
        """What belongs to the network: not the counter of an average."""
        is_average = AVERAGED in self.stored and all(
            name == AVERAGED or name.startswith("module.") for name in self.stored
        )
        return ((name, tensor) for name, tensor in self.stored.items() if not (is_average and name == AVERAGED))

    def _uncopied(self) -> str:
        """The tensors that torch cannot copy into those of a module; empty where that is not what it complains of."""
        quantised = [name for name, tensor in self.stored.items() if tensor.is_quantized]
        return f"stored quantised: {some(quantised)}" if quantised else ""

    def _versions_of_module(self) -> OrderedDict[str, object]:
        """Torch's metadata by the module's paths: old versions of a layer load otherwise than new ones."""
        paths = {file_name.rpartition(".")[0]: name.rpartition(".")[0] for file_name, name in self.names.items()}
        return OrderedDict((paths.get(path, path), version) for path, version in self.versions.items())


def is_state(content: object) -> TypeGuard[Mapping[str, torch.Tensor]]:
    """Whether this is a state_dict: a mapping of names to tensors, and not an empty one."""
    return (
        isinstance(content, Mapping)
        and bool(content)
        and all(isinstance(name, str) and isinstance(tensor, torch.Tensor) for name, tensor in content.items())
    )


def is_copy_of(state: StoredState, other: StoredState) -> bool:
    """Whether two states are of the same network: the same names, whatever wraps them, and the same shapes."""
    own, others = ({plain_name(name): tensor.shape for name, tensor in item.tensors.items()} for item in (state, other))
    return own == others


def misfit(detail: str, where: str) -> InputError:
    """What does not fit between a checkpoint and the factory's module."""
    return InputError(
        f"the checkpoint does not fit the architecture: {detail}",
        where=where,
        remedy="give with --model the factory of the network that was saved",
    )


def some(names: Iterable[str]) -> str:
    """At most five names, and how many more there are."""
    listed = list(names)
    more = f" and {len(listed) - MISFITS_SHOWN} more" if len(listed) > MISFITS_SHOWN else ""
    return ", ".join(listed[:MISFITS_SHOWN]) + more


def _in_place_of(stored: torch.Tensor, folded: torch.Tensor, name: str) -> torch.Tensor:
    """A folded tensor as the file holds its like; InputError where the file's is no ordinary array of numbers."""
    kinds = (
        (stored.layout is not torch.strided, str(stored.layout).removeprefix("torch.")),
        (stored.is_quantized, "quantised"),
        (type(stored) not in {torch.Tensor, nn.Parameter}, type(stored).__name__),
        (stored.dtype is not folded.dtype, str(stored.dtype).removeprefix("torch.")),
    )
    kind = next((word for applies, word in kinds if applies), "")
    if kind:
        raise InputError(
            f"the tensor {name!r} would be folded, and is stored as {kind}",
            remedy="save it dense, in the float type that the network runs in, or leave its batch norm out with --skip",
        )
    tensor = folded.detach()
    return nn.Parameter(tensor, requires_grad=stored.requires_grad) if isinstance(stored, nn.Parameter) else tensor


def _bias_beside(name: str) -> str:
    """The name of the bias beside a weight; empty for what is no weight."""
    path, _, last = name.rpartition(".")
    return f"{path}.bias".removeprefix(".") if last == "weight" else ""
