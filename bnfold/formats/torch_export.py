"""Exported programs (.pt2): loaded on the user's word, edited in place, checked by torch's own verifier, and saved."""

from __future__ import annotations

from collections.abc import Collection
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import torch
from numpy.typing import NDArray
from torch import nn
from torch.export.graph_signature import InputKind, InputSpec, TensorArgument

from bnfold.core.graph import GraphView, OpKind
from bnfold.core.kernel import kernel_of, layer_constants
from bnfold.core.pointwise import scale_and_shift
from bnfold.core.verdict import Edit, Plan
from bnfold.errors import InputError, UsageError
from bnfold.files.archive import require_intact
from bnfold.formats.torch_check import require_close
from bnfold.formats.torch_files import STRUCTURE_KEY
from bnfold.formats.torch_inputs import GivenInputs, example_inputs
from bnfold.formats.torch_probes import another_batch
from bnfold.formats.torch_program import STORED, ProgramView, run_program, view_program
from bnfold.formats.torch_running import Inputs
from bnfold.formats.torch_states import StoredState
from bnfold.formats.torch_structure import Structure
from bnfold.formats.torch_tensors import as_stored
from bnfold.formats.torch_trusted import load_program

if TYPE_CHECKING:
    from _typeshed import SupportsWrite
    from torch.export import ExportedProgram

    from bnfold.files.writing import Content

BIAS_ARGUMENT = 2
"""Where the bias stands among the arguments of every layer of ATen's: (input, weight, bias, …)."""


class ExportedModel:
    """An ``ExportedProgram`` that was read from a file, and is edited where it is.

    Not a copy of it: copying a program deeply renames its placeholders.
    """

    def __init__(
        self,
        program: ExportedProgram,
        inputs: GivenInputs = None,
        structure: Structure = Structure(),  # noqa: B008 - frozen
    ) -> None:
        self.program = program
        self.given_inputs = inputs
        self.removed = 0
        self.structure = structure
        self.companions: tuple[ExportedModel, ...] = ()

    @classmethod
    def load(cls, path: Path, inputs: GivenInputs = None) -> Self:
        """Read a .pt2 file, which can run its code: only on the user's word."""
        require_intact(path)
        program, text = load_program(path, STRUCTURE_KEY)
        return cls(program, inputs, Structure.from_json(text, where=str(path)) if text else Structure())

    @property
    def format(self) -> str:
        """What the reports call it."""
        return "pt2"

    @property
    def folded(self) -> ExportedProgram:
        """The program as it is now."""
        return self.program

    @cached_property
    def module(self) -> nn.Module:
        """The program as something that runs."""
        return self.program.module()

    @property
    def is_batch_fixed(self) -> bool:
        """Whether the program runs for one number of samples only."""
        taken = set(self.program.graph_signature.user_inputs)
        values = [node.meta.get("val") for node in self.program.graph.nodes if node.name in taken]
        tensors = [value for value in values if isinstance(value, torch.Tensor) and value.ndim]
        return any(isinstance(tensor.shape[0], int) for tensor in tensors)

    @cached_property
    def inputs(self) -> Inputs:
        """Example inputs: those given, or those that the program was exported with."""
        if self.given_inputs is not None:
            return example_inputs(self.module, self.given_inputs)
        if self.program.example_inputs is None:
            raise UsageError(
                "the program does not say what its inputs are", remedy="give an example: --input 1x3x224x224"
            )
        args, kwargs = self.program.example_inputs
        if args and kwargs:
            raise UsageError(
                "the program takes inputs by position and by keyword", remedy="export it with inputs of one kind"
            )
        return dict(kwargs) if kwargs else tuple(args)

    @cached_property
    def _viewed(self) -> ProgramView:
        return view_program(self.program, self.inputs)

    @property
    def view(self) -> GraphView:
        """The view of one run on the example inputs."""
        return self._viewed.view

    @property
    def notes(self) -> tuple[str, ...]:
        """A program holds nothing beside its graph."""
        return ()

    @property
    def node_count(self) -> int:
        """The number of operators that run."""
        return len(self.view.nodes) - self.removed

    @property
    def external(self) -> tuple[Path, ...]:
        """A program is one file."""
        return ()

    def describe(self, properties: dict[str, str]) -> None:
        """A program says nothing of itself."""

    def apply(self, plan: Plan) -> None:
        """Fold: rewrite tensors, take batch norms out of the graph, let torch verify it, and run it."""
        viewed = self._viewed
        if not plan.folds:
            return
        other = another_batch(self.inputs)
        expected = self._outputs(other)
        editing = _Editing(self.program, viewed)
        for edit in plan.edits:
            editing.rewrite(edit)
        for fold in plan.folds:
            editing.remove(viewed.fx_names[fold.bn.index])
        editing.finish()
        self.removed = len(plan.folds)
        self.structure += Structure(tuple(fold.bn.label for fold in plan.folds), tuple(editing.gained))
        vars(self).pop("module", None)
        require_close(viewed.outputs, run_program(self.program, self.inputs))
        if expected is not None:
            require_close(expected, self._outputs(other) or ())

    def _outputs(self, inputs: Inputs | None) -> tuple[torch.Tensor, ...] | None:
        """What the program computes; None where there are no inputs, or it does not take them."""
        try:
            return None if inputs is None else run_program(self.program, inputs)
        except UsageError:
            return None

    @property
    def state(self) -> StoredState:
        """The program's parameters and buffers by the names that they have in the module that was exported."""
        tensors = {name: tensor.detach() for name, tensor in self.program.state_dict.items()}
        return StoredState(tensors, self.structure)

    def files(self, target: Path) -> dict[Path, Content]:
        """One archive; torch writes another one each time."""
        return {target: self._write}

    def _write(self, stream: SupportsWrite[bytes | memoryview]) -> None:
        stream.write(program_bytes(self.program, self.structure))


def program_bytes(program: ExportedProgram, structure: Structure) -> bytes:
    """A .pt2 file; beside the program it says how the module differs whose tensors these are."""
    archive = BytesIO()
    notes = {} if structure == Structure() else {STRUCTURE_KEY: structure.to_json()}
    torch.export.save(program, archive, extra_files=notes)
    return archive.getvalue()


class _Editing:
    """What a plan means to the graph, the signature and the tensors of a program."""

    def __init__(self, program: ExportedProgram, viewed: ProgramView) -> None:
        self.program = program
        self.viewed = viewed
        self.graph = program.graph_module.graph
        self.nodes = {node.name: node for node in self.graph.nodes}
        self.gained: list[str] = []
        """The paths of layers that were given a bias."""
        self.specs = {spec.arg.name: spec for spec in program.graph_signature.input_specs}

    def rewrite(self, edit: Edit) -> None:
        """Give a layer, or a batch norm that stays, its folded tensors."""
        view, node = self.viewed.view, edit.node
        if node.kind is OpKind.BATCH_NORM:
            scale, shift = scale_and_shift(view, node, edit.steps)
            self._store(str(node.inputs[1]), scale)
            self._store(str(node.inputs[2]), shift)
            return
        weight, bias, _ = layer_constants(view, node)
        kernel = kernel_of(view, node).after(edit.steps)
        new_weight, new_bias = kernel.stored(weight.dtype, bias.dtype if bias else weight.dtype)
        self._store(weight.tensor, new_weight)
        if new_bias is None:
            return
        layer = self.nodes[self.viewed.fx_names[node.index]]
        name = bias.tensor if bias else self._add_bias(layer, weight.tensor, len(new_bias))
        self._store(name, new_bias)

    def remove(self, name: str) -> None:
        """Take a batch norm out; who read its output reads its input."""
        node = self.nodes.pop(name)
        parameters = [item for item in node.all_input_nodes if item.op == "placeholder" and item.name in self.specs]
        source = node.all_input_nodes[0]
        results = [user for user in node.users if "getitem" in str(user.target)] or [node]
        for result in results:
            result.replace_all_uses_with(source)
            self.program.graph_signature.replace_all_uses(result.name, source.name)
            self._rename_in_calls(result.name, source.name)
            self.graph.erase_node(result)
        if results != [node]:
            self.graph.erase_node(node)
        paths = {self._path(self.specs[item.name]) for item in parameters}
        for spec in list(self.specs.values()):
            placeholder = self.nodes[spec.arg.name]
            is_own = placeholder in parameters or self._path(spec) in paths
            if spec.kind in STORED and is_own and not placeholder.users:
                self._drop(spec)

    def _rename_in_calls(self, old: str, new: str) -> None:
        """Modules whose call signature was kept name their outputs, too."""
        for entry in self.program.module_call_graph:
            for argument in entry.signature.outputs if entry.signature else ():
                if isinstance(argument, TensorArgument) and argument.name == old:
                    argument.name = new

    def finish(self) -> None:
        """Let torch verify what has become of the program."""
        self.graph.lint()
        self.program.graph_module.recompile()
        try:
            self.program.validate()  # type: ignore[no-untyped-call]  # torch has no types here
        except Exception as error:  # torch's verifier raises errors of its own
            raise InputError(
                "the program without its batch norms is not valid for torch",
                remedy="leave batch norms out with --skip, or fold the module before exporting it",
            ) from error

    def _store(self, name: str, values: NDArray[Any]) -> None:
        """New values for a stored tensor, which keeps its kind."""
        spec = self.specs[name]
        home = self._home(spec)
        home[str(spec.target)] = as_stored(values, home[str(spec.target)])

    def _home(self, spec: InputSpec) -> dict[str, torch.Tensor]:
        """Where the program keeps a tensor."""
        home: dict[str, torch.Tensor] = self.program.state_dict
        return home if str(spec.target) in home else self.program.constants

    def _path(self, spec: InputSpec) -> str:
        """The module that a tensor belonged to."""
        return str(spec.target).rpartition(".")[0]

    def _add_bias(self, layer: torch.fx.Node, weight: str, channels: int) -> str:
        """A new parameter after the weight, and the layer that takes it; its placeholder's name."""
        beside, spec = self.nodes[weight], self.specs[weight]
        name = _unused(f"{weight.removesuffix('_weight')}_bias", self.nodes)
        target = _unused(
            f"{self._path(spec)}.bias".removeprefix("."), {str(item.target) for item in self.specs.values()}
        )
        self.gained.append(self._path(spec))
        with self.graph.inserting_after(beside):
            placeholder = self.graph.placeholder(name)
        placeholder.meta["val"] = beside.meta["val"].new_empty((channels,))
        self.nodes[name] = placeholder
        self.specs[name] = InputSpec(InputKind.PARAMETER, TensorArgument(name), target)
        specs = self.program.graph_signature.input_specs
        specs.insert(specs.index(spec) + 1, self.specs[name])
        old = self._home(spec)[str(spec.target)]
        self.program.state_dict[target] = nn.Parameter(old.new_empty((channels,)), requires_grad=old.requires_grad)
        layer.args = (*layer.args[:BIAS_ARGUMENT], placeholder, *layer.args[BIAS_ARGUMENT + 1 :])
        layer.kwargs = {key: value for key, value in layer.kwargs.items() if key != "bias"}
        return name

    def _drop(self, spec: InputSpec) -> None:
        """A tensor that nothing reads any more."""
        self.graph.erase_node(self.nodes.pop(spec.arg.name))
        self.program.graph_signature.input_specs.remove(spec)
        self.program.state_dict.pop(str(spec.target), None)
        self.program.constants.pop(str(spec.target), None)
        del self.specs[spec.arg.name]


def _unused(name: str, taken: Collection[str]) -> str:
    """``name``, or the next one that nothing has."""
    while name in taken:
        name += "_folded"
    return name
