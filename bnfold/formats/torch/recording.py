"""A recorded run, and what can be looked up in it: who uses a value, what it is computed from, whose it is."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable

import torch
from torch import nn

from bnfold.formats.torch.aten import Recorder
from bnfold.formats.torch.calls import Call

StoredTensors = list[tuple[list[str], torch.Tensor]]
"""Each parameter and buffer of a module once, with all of its names."""


class Recording:
    """A run of ``scratch``. A stored tensor goes by the first of its names."""

    def __init__(
        self,
        scratch: nn.Module,
        recorder: Recorder,
        stored: StoredTensors,
        outputs: Collection[str],
        hooked: Collection[str],
        *,
        unset: frozenset[str] = frozenset(),
    ) -> None:
        self.recorder = recorder
        self.outputs = outputs
        self.hooked = hooked
        """The paths of the modules whose runs hooks of the user's see."""
        self.unset = {names[0] for names, _ in stored if not unset.isdisjoint(names)}
        """The stored tensors whose values are only those of a first run: the module that is folded is lazy."""
        self.parts = dict(scratch.named_modules(remove_duplicate=False))
        self.names = {names[0]: names for names, _ in stored}
        self.tensors = {names[0]: tensor for names, tensor in stored}
        self.users: defaultdict[str, list[Call]] = defaultdict(list)
        self.calls_in: defaultdict[str, list[Call]] = defaultdict(list)
        """By path, the calls that a module made itself, and not a part of it."""
        for call in recorder.calls:
            self.calls_in[call.module].append(call)
            for value in set(call.inputs):
                self.users[value].append(call)
        self.moved = {name for name, tensor in self.tensors.items() if recorder.is_moved(name, tensor)}
        """The stored tensors in whose place the run has put other values, behind torch's back."""
        self.lineage = Lineage(recorder, self.tensors, self.moved | self.unset)

    def owners(self, stored: str) -> list[str]:
        """The paths of the modules that hold a stored tensor."""
        return [name.rpartition(".")[0] for name in self.names[stored]]

    def is_saved(self, stored: str) -> bool:
        """Whether a state_dict holds a stored tensor: some buffers are made anew with each module."""
        places = [(self.parts[path], last) for path, _, last in (name.rpartition(".") for name in self.names[stored])]
        return not all(last in part._non_persistent_buffers_set for part, last in places)  # noqa: SLF001 - the only record

    def further_uses(self, stored: str, by: Iterable[Call]) -> str:
        """What would change, besides the calls ``by``, if a stored tensor did; empty where nothing would."""
        if stored in self.outputs:
            return "is an output of the model"
        if not self.is_saved(stored):
            return "is a buffer that no state_dict holds"
        names = self.names[stored]
        places = {(id(self.parts[path]), last) for path, _, last in (name.rpartition(".") for name in names)}
        if len(places) > 1:
            return f"is also named {', '.join(map(repr, names[1:]))}"
        known = set(map(id, by))
        others = [f"{call.op} in {place(call)}" for call in self.users[stored] if id(call) not in known]
        return f"is read elsewhere: {', '.join(others)}" if others else ""


class Lineage:
    """What a run computes from stored tensors alone.

    ``derived`` are all such values. Those that are the same in every run are fixed: no random number takes part in
    them, and nobody writes to the tensors that they are made of.
    """

    def __init__(self, recorder: Recorder, stored: Collection[str], moved: Collection[str]) -> None:
        written = {recorder.storages[value] for call in recorder.calls for value in call.written}
        self.derived = set(stored)
        lasting = [name for name in stored if name not in moved and recorder.storages[name] not in written]
        self._leaves = {name: frozenset((name,)) for name in lasting}
        self._makers: dict[str, tuple[int, Call]] = {}
        for position, call in enumerate(recorder.calls):
            if not call.inputs or not self.derived.issuperset(call.inputs):
                continue
            self.derived.update(call.outputs)
            if _is_repeatable(call) and all(value in self._leaves for value in call.inputs):
                self._leaves |= dict.fromkeys(call.outputs, self.leaves(call.inputs))
                self._makers |= dict.fromkeys(call.outputs, (position, call))

    def is_fixed(self, value: str) -> bool:
        """Whether ``value`` is computed from stored tensors alone, the same in every run."""
        return value in self._leaves

    def leaves(self, values: Iterable[str]) -> frozenset[str]:
        """The stored tensors that fixed values are made of."""
        return frozenset[str]().union(*(self._leaves[value] for value in values))

    def chain(self, values: Iterable[str]) -> list[Call]:
        """The calls that compute fixed values from their leaves, as they ran."""
        found: dict[int, Call] = {}
        pending = list(values)
        while pending:
            position, call = self._makers.get(pending.pop(), (-1, None))
            if call is not None and position not in found:
                found[position] = call
                pending += call.inputs
        return [found[position] for position in sorted(found)]


def place(call: Call) -> str:
    """Where a call ran, in words."""
    return call.module or "the model itself"


def _is_repeatable(call: Call) -> bool:
    """Whether a call computes the same from the same, into memory of its own."""
    if call.written or call.function is None or call.op.removeprefix("new_").startswith("empty"):
        return False
    return torch.Tag.nondeterministic_seeded not in call.function.tags
