"""A recorded run in the words of the graph view: what each call is, whose it is, and what may be rewritten."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping
from functools import partial
from typing import Any

import torch
from numpy.typing import NDArray
from torch import nn

from bnfold.core.graph import LAYERS, Constant, Lock, Node, OpKind, Value
from bnfold.core.reason import Reason
from bnfold.formats import torch_movers, torch_operators
from bnfold.formats._aten import COMPUTED, Call, Recorder
from bnfold.formats.torch_memory import SharedMemory
from bnfold.formats.torch_operators import Meaning, Shapes, opaque

DECIDING = ("item", "is_nonzero", "equal", "allclose")
"""The calls by which Python code reads values, to branch on them or to compute with them."""

ROWS = torch_operators.ROWS | torch_movers.ROWS


def meaning_of(call: Call, shapes: Shapes) -> Meaning:
    """A call in the words of the graph view; what the tables do not know is opaque."""
    row = ROWS.get(call.op.partition(".")[0])
    return row(call, shapes) if row else opaque(call)


class Translation:
    """The recorded calls as nodes, in order."""

    def __init__(
        self,
        scratch: nn.Module,
        recorder: Recorder,
        stored: list[tuple[list[str], torch.Tensor]],
        locks: Mapping[str, Lock],
        outputs: Collection[str],
    ) -> None:
        self.scratch = scratch
        self.recorder = recorder
        self.stored = stored
        self.locks = locks
        self.nodes: list[Node] = []
        self.owners: dict[int, str] = {}
        self.names = {names[0]: names for names, _ in stored}
        self.parts = dict(scratch.named_modules(remove_duplicate=False))
        self.outputs = outputs
        self.users: defaultdict[str, list[Call]] = defaultdict(list)
        for call in recorder.calls:
            for value in set(call.inputs):
                self.users[value].append(call)
        self.seen_batch_norms: set[str] = set()
        self.derived = {names[0] for names, _ in stored}
        """The values that are computed from stored tensors alone."""
        batch_norms = [call for call in recorder.calls if meaning_of(call, recorder.shapes).kind is OpKind.BATCH_NORM]
        self.memory = SharedMemory(recorder, batch_norms, outputs)

    def add_calls(self) -> None:
        """Every call becomes a node; a batch norm that ran before, or that normalises a weight, is none of ours."""
        for position, call in enumerate(self.recorder.calls):
            meaning = meaning_of(call, self.recorder.shapes)
            if call.inputs and self.derived.issuperset(call.inputs):
                self.derived.update(call.outputs)
                meaning = Meaning(OpKind.OPAQUE, call.inputs)
            owner = self.owner(call, meaning)
            if meaning.kind is OpKind.BATCH_NORM:
                meaning = self.once(call, meaning, owner)
            lock = self.lock(call, meaning, owner)
            if meaning.kind is OpKind.BATCH_NORM and lock is None and self.memory.is_entangled(position):
                lock = Lock(Reason.FAN_OUT, "its input or output is written in place while the other is still needed")
            label = owner or call.module or call.op
            index = len(self.nodes)
            self.owners[index] = owner
            self.nodes.append(
                Node(index, meaning.kind, call.op, label, meaning.inputs, call.outputs, meaning.traits, lock)
            )

    def owner(self, call: Call, meaning: Meaning) -> str:
        """The path of the module that holds a layer's weight or a batch norm's statistics; else where it ran."""
        if meaning.kind not in LAYERS and meaning.kind is not OpKind.BATCH_NORM:
            return ""
        held = [
            value for value in (*meaning.inputs[3:], *meaning.inputs[1:3]) if value and not value.startswith(COMPUTED)
        ]
        owners = [name.rpartition(".")[0] for name in self.names.get(held[0], ())] if held else []
        return owners[0] if owners and call.module not in owners else call.module

    def once(self, call: Call, meaning: Meaning, owner: str) -> Meaning:
        """The first call stands for the batch norm; a further one is only in its way."""
        if owner and owner in self.seen_batch_norms:
            return Meaning(OpKind.OPAQUE, call.inputs)
        self.seen_batch_norms.add(owner)
        return meaning

    def lock(self, call: Call, meaning: Meaning, owner: str) -> Lock | None:
        """Why a layer or a batch norm may not be touched: it serves several places, or runs the user's code."""
        if meaning.kind not in LAYERS and meaning.kind is not OpKind.BATCH_NORM:
            return None
        identity = meaning.inputs[3] if meaning.kind is OpKind.BATCH_NORM else meaning.inputs[1]
        if identity is None or identity.startswith(COMPUTED):
            return None
        users = self.users[identity]
        if len(users) > 1 and len({user.module for user in users}) == 1:
            return Lock(Reason.RUNS_MORE_THAN_ONCE, f"{owner!r} runs {len(users)} times")
        if call.module != owner:
            return Lock(Reason.HOOKED, f"code outside of its own forward method uses the tensors of {owner!r}")
        if meaning.kind is OpKind.BATCH_NORM and (use := self.foreign_use(meaning)):
            return Lock(Reason.HOOKED, use)
        return self.locks.get(owner)

    def foreign_use(self, meaning: Meaning) -> str:
        """What besides batch norms reads the tensors of a batch norm, which would be gone; empty where nothing does."""
        for name in filter(None, meaning.inputs[1:]):
            if name in self.outputs:
                return f"its {name.rpartition('.')[2]} is an output of the model"
            for call in self.users[name]:
                if meaning_of(call, self.recorder.shapes).kind is not OpKind.BATCH_NORM:
                    return f"{call.op} in {call.module or 'the model itself'} reads its {name.rpartition('.')[2]}"
        return ""

    def values(self) -> dict[str, Value]:
        """The stored tensors; one that serves more than one purpose may be read but not rewritten."""
        return {names[0]: self.stored_value(names, tensor) for names, tensor in self.stored}

    def stored_value(self, names: list[str], tensor: torch.Tensor) -> Value:
        """One stored tensor."""
        name = names[0]
        if not _is_plain(tensor):
            return Value(name)
        constant = Constant(name, str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape), partial(read, tensor))
        uses = self.further_uses(names)
        return Value(name, constant, Lock(Reason.WEIGHT_SHARED, f"it is also {uses}") if uses else None)

    def further_uses(self, names: list[str]) -> str:
        """What would change, besides its layer, if a stored tensor did; empty where nothing would."""
        name = names[0]
        if name in self.outputs:
            return "an output of the model"
        places = {(id(self.parts[path]), last) for path, _, last in (n.rpartition(".") for n in names)}
        if len(places) > 1:
            return f"named {', '.join(map(repr, names[1:]))}"
        if len(self.users[name]) > 1:
            readers = [f"{call.op} in {call.module or 'the model itself'}" for call in self.users[name]]
            return f"read elsewhere: {', '.join(readers)}"
        return ""

    def notes(self) -> tuple[str, ...]:
        """Batch norms that the run never reached, and whether another run might take another path."""
        ran = {*self.owners.values(), *(call.module for call in self.recorder.calls)}
        silent = [
            path
            for path, part in self.scratch.named_modules()
            if isinstance(part, nn.modules.batchnorm._BatchNorm) and path not in ran  # noqa: SLF001 - the common base
        ]
        notes: tuple[str, ...] = (
            (f"never ran on the example inputs, and left alone: {', '.join(silent)}",) if silent else ()
        )
        asking = [
            call for call in self.recorder.calls if call.op in DECIDING and not self.derived.issuperset(call.inputs)
        ]
        if asking:
            places = ", ".join(dict.fromkeys(call.module or "the model itself" for call in asking))
            notes += (f"the path may depend on the data ({places}); judged on the path that the example inputs took",)
        return notes


def read(tensor: torch.Tensor) -> NDArray[Any]:
    """The values of a stored tensor in NumPy; bfloat16 widened to float32."""
    detached = tensor.detach().cpu()
    return (detached.float() if detached.dtype is torch.bfloat16 else detached).numpy()


def _is_plain(tensor: torch.Tensor) -> bool:
    """Whether a tensor is an ordinary array of real floats, not a sparse, quantised or wrapped one."""
    is_wrapped = type(tensor).__torch_dispatch__ is not torch.Tensor.__torch_dispatch__
    return tensor.is_floating_point() and tensor.layout is torch.strided and not (tensor.is_meta or is_wrapped)
