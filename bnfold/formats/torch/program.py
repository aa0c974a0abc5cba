"""An exported program as a graph view: its graph is run once, operator by operator, and the run is recorded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch.export.graph_signature import InputKind
from torch.fx import Interpreter
from torch.utils._pytree import tree_leaves

from bnfold.core.graph import LAYERS, Constant, GraphView, Lock, Node, OpKind, Value
from bnfold.core.reason import Reason
from bnfold.errors import InputError, UsageError
from bnfold.formats.torch.aten import Recorder
from bnfold.formats.torch.calls import Call
from bnfold.formats.torch.memory import SharedMemory
from bnfold.formats.torch.operators import Meaning
from bnfold.formats.torch.remains import ENTANGLED
from bnfold.formats.torch.running import Inputs
from bnfold.formats.torch.translation import meaning_of
from bnfold.formats.torch.trusted import first_line
from bnfold.formats.torch.values import read

if TYPE_CHECKING:
    from torch.export import ExportedProgram

STORED = frozenset({InputKind.PARAMETER, InputKind.BUFFER, InputKind.CONSTANT_TENSOR})


@dataclass(frozen=True, eq=False)
class ProgramView:
    """A view of a program; the name of the fx node behind each of its nodes; the outputs of the run."""

    view: GraphView
    fx_names: Mapping[int, str]
    outputs: tuple[torch.Tensor, ...]


class _Watched(Interpreter):
    """Runs a graph node by node, with a record that knows which one is running."""

    def __init__(self, module: torch.fx.GraphModule, stored: Mapping[str, torch.Tensor]) -> None:
        super().__init__(module)
        self.running = ""
        self.recorder = Recorder(stored, lambda: self.running)

    def run_node(self, n: torch.fx.Node) -> Any:  # noqa: ANN401 - whatever the node computes
        """Run ``n``; an operator that is no ATen call (a branch, a loop) reads all that it is given."""
        self.running = n.name
        if n.op == "call_function" and not isinstance(n.target, torch._ops.OpOverload):  # noqa: SLF001 - torch's one name for it
            args, kwargs = self.fetch_args_kwargs_from_env(n)
            tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
            if not n.name.startswith("getitem"):
                self.recorder.add_reader(str(n.target), tensors)
        return super().run_node(n)


def view_program(program: ExportedProgram, inputs: Inputs) -> ProgramView:
    """Run ``program`` on ``inputs`` and view what ran. UsageError where it fails on them."""
    stored = stored_tensors(program)
    interpreter = _Watched(program.graph_module, stored)
    recorder = interpreter.recorder
    outputs = _run(program, inputs, interpreter, recorder)
    output_ids = frozenset(map(recorder.id_of, outputs))
    return _Translation(program, recorder, stored, output_ids).view(tuple(tensor.clone() for tensor in outputs))


def run_program(program: ExportedProgram, inputs: Inputs) -> tuple[torch.Tensor, ...]:
    """What ``program`` computes. UsageError where it fails on the inputs."""
    return _run(program, inputs, Interpreter(program.graph_module), nullcontext())


def _run(
    program: ExportedProgram, inputs: Inputs, interpreter: Interpreter, watching: AbstractContextManager[object]
) -> tuple[torch.Tensor, ...]:
    stored = stored_tensors(program)
    specs = program.graph_signature.input_specs
    strange = [spec.arg.name for spec in specs if spec.kind not in STORED and spec.kind is not InputKind.USER_INPUT]
    if strange:
        raise InputError(f"the program takes objects that are no tensors: {', '.join(strange[:3])}")
    given = iter(
        leaf.detach().clone() if isinstance(leaf, torch.Tensor) else leaf
        for leaf in tree_leaves(tuple(inputs.values()) if isinstance(inputs, dict) else inputs)
    )
    values = [stored[spec.arg.name] if spec.kind in STORED else next(given, None) for spec in specs]
    try:
        with torch.inference_mode(), torch.random.fork_rng(), watching:
            result = interpreter.run(*values, enable_io_processing=False)
    except Exception as error:  # what an operator raises
        raise UsageError(
            f"the program fails on the example inputs: {first_line(error)}",
            remedy="give inputs that it accepts with --input (inputs=)",
        ) from error
    return tuple(leaf for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor))


def stored_tensors(program: ExportedProgram) -> dict[str, torch.Tensor]:
    """Parameters, buffers and constants, by the names of their placeholders."""
    signature = program.graph_signature
    return {
        spec.arg.name: program.state_dict.get(str(spec.target), program.constants.get(str(spec.target)))
        for spec in signature.input_specs
        if spec.kind in STORED
    }


class _Translation:
    """The recorded calls in the words of the graph view."""

    def __init__(
        self, program: ExportedProgram, recorder: Recorder, stored: dict[str, torch.Tensor], outputs: frozenset[str]
    ) -> None:
        self.program = program
        self.recorder = recorder
        self.stored = stored
        self.outputs = outputs
        self.paths = {
            spec.arg.name: str(spec.target).rpartition(".")[0] for spec in program.graph_signature.input_specs
        }
        self.operators = {node.name: node for node in program.graph.nodes}
        self.uses = Counter(value for call in recorder.calls for value in call.inputs)
        self.meanings = list(map(self._meaning, recorder.calls))

    def view(self, outputs: tuple[torch.Tensor, ...]) -> ProgramView:
        """The view of the run, whose outputs these are."""
        norms = [
            (meaning.inputs[0] or "", call.outputs[0])
            for call, meaning in zip(self.recorder.calls, self.meanings, strict=True)
            if meaning.kind is OpKind.BATCH_NORM
        ]
        memory = SharedMemory(self.recorder, norms, self.outputs)
        nodes = tuple(
            Node(index, meaning.kind, call.op, self._label(call, meaning), meaning.inputs, call.outputs, meaning.traits)
            if meaning.kind is not OpKind.BATCH_NORM or not memory.is_entangled(index)
            else Node(
                index,
                meaning.kind,
                call.op,
                self._label(call, meaning),
                meaning.inputs,
                call.outputs,
                meaning.traits,
                Lock(Reason.FAN_OUT, ENTANGLED),
            )
            for index, (call, meaning) in enumerate(zip(self.recorder.calls, self.meanings, strict=True))
        )
        values = {name: self._value(name, tensor) for name, tensor in self.stored.items()}
        shapes = self.recorder.shapes
        names = {index: call.module for index, call in enumerate(self.recorder.calls)}
        return ProgramView(GraphView(nodes, values.get, self.outputs, lambda: shapes), names, outputs)

    def _meaning(self, call: Call) -> Meaning:
        """What a call is; one that is not the whole of its fx node, or works on stored tensors alone, is opaque."""
        meaning = meaning_of(call, self.recorder.shapes)
        if meaning.kind not in LAYERS and meaning.kind is not OpKind.BATCH_NORM:
            return meaning
        target = self.operators[call.module].target
        is_whole = isinstance(target, torch._ops.OpOverload) and target._schema.name == f"aten::{call.op}"  # noqa: SLF001 - as above
        is_of_weights = self.stored.keys() >= set(call.inputs)
        return meaning if is_whole and not is_of_weights else Meaning(OpKind.OPAQUE, call.inputs)

    def _label(self, call: Call, meaning: Meaning) -> str:
        """The path of the module that a layer or a batch norm was; else the fx node."""
        if meaning.kind in LAYERS or meaning.kind is OpKind.BATCH_NORM:
            paths = [self.paths.get(value or "", "") for value in (*meaning.inputs[3:], *meaning.inputs[1:3])]
            return next(filter(None, paths), call.module)
        return call.module or call.op

    def _value(self, name: str, tensor: torch.Tensor) -> Value:
        """A stored tensor; one that is used twice, or shares its memory, may be read but not rewritten."""
        if not tensor.is_floating_point() or tensor.layout is not torch.strided or tensor.is_meta:
            return Value(name)
        constant = Constant(name, str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape), partial(read, tensor))
        storage = self.recorder.storages[name]
        sharing = [other for other in self.stored if self.recorder.storages.get(other) == storage and other != name]
        if self.uses[name] > 1 or name in self.outputs or sharing:
            return Value(name, constant, Lock(Reason.WEIGHT_SHARED, "the program uses it in more than one place"))
        return Value(name, constant)
