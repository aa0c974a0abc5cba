"""What a plan means to an exported program: to its graph, its signature and its tensors."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

import torch
from numpy.typing import NDArray
from torch import nn
from torch.export.graph_signature import InputKind, InputSpec, TensorArgument

from bnfold.core.graph import OpKind
from bnfold.core.kernel import layer_constants
from bnfold.core.pointwise import scale_and_shift
from bnfold.core.verdict import Edit
from bnfold.errors import InputError
from bnfold.formats.torch.program import STORED, ProgramView
from bnfold.formats.torch.tensors import as_stored, folded_arrays

if TYPE_CHECKING:
    from torch.export import ExportedProgram

BIAS_ARGUMENT = 2
"""Where the bias stands among the arguments of every layer of ATen's: (input, weight, bias, …)."""


class ProgramEditing:
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
        new_weight, new_bias = folded_arrays(view, edit)
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
        """A placeholder that nothing reads any more, and its tensor where that is the only one for it."""
        self.graph.erase_node(self.nodes.pop(spec.arg.name))
        self.program.graph_signature.input_specs.remove(spec)
        del self.specs[spec.arg.name]
        if all(other.target != spec.target for other in self.specs.values()):
            self.program.state_dict.pop(str(spec.target), None)
            self.program.constants.pop(str(spec.target), None)


def _unused(name: str, taken: Collection[str]) -> str:
    """``name``, or the next one that nothing has."""
    while name in taken:
        name += "_folded"
    return name
