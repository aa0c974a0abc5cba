"""A recorded run in the words of the graph view: what each call is, whose it is, and what may be rewritten."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from bnfold.core.graph import LAYERS, Lock, Node, OpKind
from bnfold.core.reason import Reason
from bnfold.core.traits import LayerTraits
from bnfold.formats.torch import movers, operators, sums
from bnfold.formats.torch import remains as remaining
from bnfold.formats.torch.arithmetic import ArithmeticRun, run_from
from bnfold.formats.torch.calls import Call, is_stored
from bnfold.formats.torch.classes import BatchNorm, is_frozen, is_known, layer_lock
from bnfold.formats.torch.memory import SharedMemory
from bnfold.formats.torch.operators import (
    Meaning,
    Shapes,
    is_quantised_batch_norm,
    opaque,
    quantised_batch_norm,
    without_new_bias,
)
from bnfold.formats.torch.recording import Recording
from bnfold.formats.torch.remains import Remains

DECIDING = ("item", "is_nonzero", "equal", "allclose")
"""The calls by which Python code reads values, to branch on them or to compute with them."""

ROWS = operators.ROWS | movers.ROWS | sums.ROWS


def meaning_of(call: Call, shapes: Shapes) -> Meaning:
    """A call in the words of the graph view; what the tables do not know is opaque."""
    row = ROWS.get(call.op.partition(".")[0])
    return row(call, shapes) if row else opaque(call)


class Translation:
    """The recorded calls as nodes, in order."""

    def __init__(self, recording: Recording) -> None:
        self.recording = recording
        self.calls = recording.recorder.calls
        self.nodes: list[Node] = []
        self.owners: dict[int, str] = {}
        self.remains: dict[int, Remains] = {}
        self.seen: set[tuple[str | None, ...]] = set()
        """The batch norms that ran, by the module or the tensors that make them up."""
        self.positions = {id(call): position for position, call in enumerate(self.calls)}
        self.meanings = {id(call): self._meaning(call) for call in self.calls}
        self.runs = self._runs()
        self.memory = SharedMemory(recording.recorder, self._normalised(), recording.outputs)

    def add_calls(self) -> None:
        """Every call becomes a node, and a run of arithmetic with constants becomes one."""
        taken: set[int] = set()
        for position, call in enumerate(self.calls):
            if position in taken:
                continue
            run = self.runs.get(position)
            if run is not None:
                taken |= {self.positions[id(step.call)] for step in run.steps}
                self.add_run(run)
                continue
            meaning = self.meanings[id(call)]
            if meaning.kind is OpKind.BATCH_NORM:
                self.add_batch_norm(call, meaning)
            elif meaning.kind in LAYERS:
                self.add_layer(call, meaning)
            else:
                self.add(call, meaning, call.module or call.op)

    def _meaning(self, call: Call) -> Meaning:
        """What a call is; what computes a weight is none of ours."""
        if call.inputs and self.recording.lineage.derived.issuperset(call.inputs):
            return opaque(call)
        if is_quantised_batch_norm(call):
            return quantised_batch_norm(call)
        return meaning_of(call, self.recording.recorder.shapes)

    def add(
        self, call: Call, meaning: Meaning, label: str, outputs: tuple[str, ...] = (), lock: Lock | None = None
    ) -> None:
        """One more node of the view."""
        index = len(self.nodes)
        why = self.remains[index].why if index in self.remains else ""
        outputs = outputs or call.outputs
        node = Node(index, meaning.kind, call.op, label, meaning.inputs, outputs, meaning.traits, lock, why)
        self.nodes.append(node)

    def add_layer(self, call: Call, meaning: Meaning) -> None:
        """A layer. One that code calls by hand, and not a module of torch's, gets no bias where it has none."""
        owner = self.owner(call, meaning)
        self.owners[len(self.nodes)] = owner
        is_by_hand = call.module != owner or not is_known(self.recording.parts[owner])
        if is_by_hand and isinstance(meaning.traits, LayerTraits):
            meaning = without_new_bias(meaning)
        self.add(call, meaning, owner or call.op, lock=self.layer_lock(call, meaning, owner))

    def add_batch_norm(self, call: Call, meaning: Meaning) -> None:
        """A batch norm; one that ran before stands for itself, and a further call is only in its way."""
        owner = self.owner(call, meaning)
        identity = (owner, *meaning.inputs[1:])
        if identity in self.seen:
            self.add(call, opaque(call), owner or call.op)
            return
        self.seen.add(identity)
        self.owners[len(self.nodes)] = owner
        remains = self.bn_lock(call, meaning, owner) or remaining.of_operator(
            self.recording, call, meaning, owner, is_entangled=self.memory.is_entangled(self.positions[id(call)])
        )
        stored = [value for value in (*meaning.inputs[3:], *meaning.inputs[1:3]) if value and is_stored(value)]
        self.add_remains(call, meaning, self.label(call, owner, stored), remains, call.outputs)

    def add_run(self, run: ArithmeticRun) -> None:
        """A run of arithmetic. One that is no batch norm stays as it is."""
        call, meaning = run.steps[0].call, run.meaning(self.recording)
        outputs = (run.output,)
        if meaning.kind is not OpKind.BATCH_NORM:
            stays = Lock(Reason.NO_LINEAR_LAYER, "arithmetic that is no batch norm stays")
            lock = stays if meaning.kind is OpKind.SCALE_SHIFT else None
            self.add(call, meaning, call.module or call.op, outputs, lock)
            return
        leaves = sorted(self.recording.lineage.leaves(run.computed))
        identity = ("", *leaves)
        if identity in self.seen:
            self.add(call, Meaning(OpKind.OPAQUE, meaning.inputs), call.module or call.op, outputs)
            return
        self.seen.add(identity)
        label = self.label(call, call.module, leaves)
        self.owners[len(self.nodes)] = call.module
        last = self.positions[id(self.maker(run.output, call))]
        remains = remaining.of_run(self.recording, run, is_entangled=self.memory.is_entangled(last))
        self.add_remains(call, meaning, label, remains, outputs)

    def add_remains(
        self, call: Call, meaning: Meaning, label: str, remains: Remains | Lock, outputs: tuple[str, ...]
    ) -> None:
        """A batch norm, and what it leaves behind, or why it may not fold."""
        index, lock = len(self.nodes), remains if isinstance(remains, Lock) else None
        if isinstance(remains, Remains):
            self.remains[index] = remains
        self.add(call, meaning, label, outputs, lock)

    def label(self, call: Call, owner: str, stored: Iterable[str]) -> str:
        """The module that is the batch norm; one in code that does more goes by the first of its own tensors."""
        part = self.recording.parts[owner]
        if isinstance(part, BatchNorm | torch.jit.ScriptModule) or is_frozen(part):
            return owner or call.op
        return next(iter(stored), owner or call.op)

    def maker(self, value: str, first: Call) -> Call:
        """The call, from ``first`` on, that makes ``value``."""
        return next(call for call in self.calls[self.positions[id(first)] :] if value in call.outputs)

    def owner(self, call: Call, meaning: Meaning) -> str:
        """The path of the module that holds a layer's weight or a batch norm's statistics; else where it ran."""
        held = [value for value in (*meaning.inputs[3:], *meaning.inputs[1:3]) if value and is_stored(value)]
        owners = self.recording.owners(held[0]) if held else []
        return owners[0] if owners and call.module not in owners else call.module

    def bn_lock(self, call: Call, meaning: Meaning, owner: str) -> Lock | None:
        """Why a batch norm may not be touched, whatever it leaves behind."""
        if is_quantised_batch_norm(call):
            return Lock(Reason.QUANTISED, "its input and its output are integers with a scale")
        return self.again(call, meaning, owner)

    def again(self, call: Call, meaning: Meaning, owner: str) -> Lock | None:
        """Why a layer or a batch norm may not be touched that serves several places."""
        identity = meaning.inputs[3] if meaning.kind is OpKind.BATCH_NORM else meaning.inputs[1]
        users = self.recording.users[identity] if identity and is_stored(identity) else []
        alike = [user for user in users if (user.module, user.op) == (call.module, call.op)]
        if len(alike) > 1:
            return Lock(Reason.RUNS_MORE_THAN_ONCE, f"{owner or call.op!r} runs {len(alike)} times")
        return None

    def layer_lock(self, call: Call, meaning: Meaning, owner: str) -> Lock | None:
        """Why a layer may not be rewritten: it serves several places, or runs the user's code."""
        if not is_stored(meaning.inputs[1]):
            return None  # its weight is not constant, which says more
        part = self.recording.parts[owner]
        is_its_own = call.module == owner or isinstance(part, torch.jit.ScriptModule)
        return self.again(call, meaning, owner) or (
            layer_lock(part, hooked=owner in self.recording.hooked) if is_its_own else None
        )

    def notes(self) -> tuple[str, ...]:
        """Batch norms that the run never reached, and whether another run might take another path."""
        parts = self.recording.parts
        ran = {id(parts[path]) for path in (*self.owners.values(), *(call.module for call in self.calls))}
        silent = [path for path, part in parts.items() if isinstance(part, BatchNorm) and id(part) not in ran]
        notes: tuple[str, ...] = (
            (f"never ran on the example inputs, and left alone: {', '.join(silent)}",) if silent else ()
        )
        derived = self.recording.lineage.derived
        asking = [call for call in self.calls if call.op in DECIDING and not derived.issuperset(call.inputs)]
        if asking:
            places = ", ".join(dict.fromkeys(call.module or "the model itself" for call in asking))
            notes += (f"the path may depend on the data ({places}); judged on the path that the example inputs took",)
        return notes

    def _runs(self) -> dict[int, ArithmeticRun]:
        """The runs of arithmetic with constants, by the position of their first call."""
        runs: dict[int, ArithmeticRun] = {}
        taken: set[int] = set()
        for position, call in enumerate(self.calls):
            run = None if position in taken else run_from(self.recording, call)
            if run is not None:
                runs[position] = run
                taken |= {self.positions[id(step.call)] for step in run.steps}
        return runs

    def _normalised(self) -> list[tuple[str, str]]:
        """The value before and behind each batch norm."""
        operators = [(call, self.meanings[id(call)]) for call in self.calls]
        norms = [(call, meaning) for call, meaning in operators if meaning.kind is OpKind.BATCH_NORM]
        ends = [(str(meaning.inputs[0]), call.outputs[0]) for call, meaning in norms]
        runs = [run for run in self.runs.values() if run.meaning(self.recording).kind is OpKind.BATCH_NORM]
        return ends + [(run.data, run.output) for run in runs]
