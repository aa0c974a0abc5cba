"""A plan becomes edits of the protobuf: layers read new tensors under unused names, and batch norms are out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from numpy.typing import NDArray
from onnx import AttributeProto, ModelProto, NodeProto, helper

from bnfold.core.affine import Affine
from bnfold.core.graph import SUM_KINDS, Constant, GraphView, Node, OpKind
from bnfold.core.kernel import kernel_of, layer_constants
from bnfold.core.pointwise import after_steps, scale_and_shift
from bnfold.core.rounding import rounded
from bnfold.core.traits import ScaleShiftTraits
from bnfold.core.verdict import Edit, Plan
from bnfold.formats.onnx.functions import write_back
from bnfold.formats.onnx.patch import Patch
from bnfold.formats.onnx.places import Place
from bnfold.formats.onnx.raising import BROADCAST_ATTRIBUTE_UNTIL
from bnfold.formats.onnx.scopes import ONNX_DOMAINS
from bnfold.formats.onnx.tensors import NewTensor
from bnfold.formats.onnx.view import OnnxView

MAY_GO = SUM_KINDS | {OpKind.BATCH_NORM, OpKind.SCALE_SHIFT}


def apply_plan(model: ModelProto, view: OnnxView, plan: Plan) -> dict[str, NewTensor]:
    """Edit ``model``, of which ``view`` is the view, as ``plan`` says; its new initializers, by name."""
    editor = _Editor(model, view)
    for edit in plan.edits:
        if isinstance(edit.node.traits, ScaleShiftTraits):
            editor.rewrite_run(edit)
        elif edit.node.kind is OpKind.BATCH_NORM:
            editor.rewrite_batch_norm(edit)
        else:
            editor.rewrite_layer(edit)
    for fold in plan.removals:
        if not fold.leaving:
            editor.join_around(fold.bn)
    for index, slots in plan.left:
        editor.thin_sum(index, slots)
    for change in plan.changes:
        if change.leaving:
            editor.take_out(change.removed)
    editor.patch.finish()
    write_back(view.scopes, editor.patch.tensors, editor.opset)
    names = {tensor.name for tensor in model.graph.initializer}
    return {name: tensor for name, tensor in editor.patch.tensors.items() if name in names}


class _Editor:
    """What edits and folds mean to the protobuf."""

    def __init__(self, model: ModelProto, view: OnnxView) -> None:
        self.view = view
        self.patch = Patch(model, view.scopes, lambda value: view.graph.value_of(value) is not None)
        self.opset = next((item.version for item in model.opset_import if item.domain in ONNX_DOMAINS), 1)
        self.movable = _movable(view.graph)

    def rewrite_layer(self, edit: Edit) -> None:
        """The layer reads new tensors; the old ones go once nobody reads them."""
        graph, place = self.view.graph, self.view.places[edit.node.index]
        weight, bias, _ = layer_constants(graph, edit.node)
        bias_dtype = bias.dtype if bias else weight.dtype
        new_bias = kernel_of(graph, edit.node).after(edit.steps).stored_bias(bias_dtype)

        def new_weight() -> Iterator[NDArray[Any]]:
            return kernel_of(graph, edit.node).after(edit.steps).stored_pieces(weight.dtype)

        proto = place.proto
        old_weight = proto.input[1]
        self.patch.orphan(place.scope, [old_weight])
        tensor = NewTensor(weight.dtype, weight.shape, new_weight)
        proto.input[1] = self.patch.add_tensor(place.scope, f"{old_weight}_folded", tensor)
        if new_bias is None:
            return
        old_bias = self.bias_name(place, bias)
        if old_bias:
            self.patch.orphan(place.scope, [old_bias])
        self.set_bias(place, self.add_values(place, old_bias or _bias_for(old_weight), new_bias, bias_dtype))

    def add_values(self, place: Place, old: str, values: NDArray[Any], dtype: str) -> str:
        """A new initializer in place of ``old``; its name."""
        return self.patch.add_tensor(place.scope, f"{old}_folded", NewTensor.of(values, dtype))

    def rewrite_batch_norm(self, edit: Edit) -> None:
        """The batch norm reads a new scale and shift."""
        place = self.view.places[edit.node.index]
        for slot, values in enumerate(scale_and_shift(self.view.graph, edit.node, edit.steps), start=1):
            constant = self.view.graph.constant(edit.node.inputs[slot])
            if constant is None:
                raise ValueError(f"{edit.node.label!r} has no constant parameters")
            old = place.proto.input[slot]
            self.patch.orphan(place.scope, [old])
            place.proto.input[slot] = self.add_values(place, old, values, constant.dtype)

    def rewrite_run(self, edit: Edit) -> None:
        """A multiplication and an addition take the place of a run; one that would change nothing is left out."""
        graph, place = self.view.graph, self.view.places[edit.node.index]
        scope, constant = place.scope, graph.constant(edit.node.inputs[1])
        shape = graph.shape(edit.node.data)
        if constant is None or shape is None:
            raise ValueError(f"{edit.node.label!r} has no constant, or no shape")
        affine = after_steps(graph, edit.node, edit.steps)
        parts = [("Mul", affine.scale, (affine.scale != 1).any()), ("Add", affine.shift, (affine.shift != 0).any())]
        needed = [(op, values) for op, values, is_needed in parts if is_needed] or [("Mul", affine.scale)]
        source = place.data
        sizes, attributes = self.broadcast(affine, len(shape))
        for position, (op, values) in enumerate(needed, start=1):
            wish, stored = f"{place.output}_{op.lower()}", rounded(values.reshape(sizes), constant.dtype)
            tensor = NewTensor.of(stored, constant.dtype)
            result = place.output if position == len(needed) else self.patch.unused(f"{place.output}_scaled")
            name = self.patch.unused(f"{place.proto.name}_{op.lower()}") if place.proto.name else ""
            inputs = [source, self.patch.add_tensor(scope, wish, tensor)]
            node = helper.make_node(op, inputs, [result], name=name)
            node.attribute.extend(attributes)
            self.patch.insert(scope, place.positions[-1] + 1, node)
            source = result
        self.patch.remove(scope, place.positions, place.constants)

    def broadcast(self, affine: Affine, rank: int) -> tuple[list[int], list[AttributeProto]]:
        """The sizes of a constant with a number a channel, and the attributes of whoever adds or multiplies it."""
        if self.opset <= BROADCAST_ATTRIBUTE_UNTIL:
            return [affine.channels], [
                helper.make_attribute("axis", affine.axis),
                helper.make_attribute("broadcast", 1),
            ]
        return [affine.channels, *[1] * (rank - 1 - affine.axis)], []

    def bias_name(self, place: Place, bias: Constant | None) -> str:
        """The name of a layer's bias in the protobuf; empty where it has none."""
        if bias is None:
            return ""
        names = place.proto.input if place.bias_add is None else place.bias_add.input
        return str(names[2] if place.bias_add is None else names[place.bias_slot])

    def set_bias(self, place: Place, name: str) -> None:
        """The layer adds the tensor ``name``, with gain 1."""
        proto = place.proto
        if place.bias_add is not None:
            place.bias_add.input[place.bias_slot] = name
        elif proto.op_type == "MatMul":
            self.insert_add(place, name)
        else:
            del proto.input[2:]
            proto.input.append(name)
        if proto.op_type == "Gemm":
            self.set_gemm_attributes(proto)

    def set_gemm_attributes(self, proto: NodeProto) -> None:
        """β is 1 now: the folded bias is the whole of it."""
        for attribute in proto.attribute:
            if attribute.name == "beta":
                attribute.f = 1.0
        if self.opset <= BROADCAST_ATTRIBUTE_UNTIL and not any(item.name == "broadcast" for item in proto.attribute):
            proto.attribute.append(helper.make_attribute("broadcast", 1))

    def insert_add(self, place: Place, bias: str) -> None:
        """An Add behind a MatMul, which has no bias of its own; it produces what the MatMul did."""
        proto, output = place.proto, place.proto.output[0]
        proto.output[0] = self.patch.unused(f"{output}_product")
        name = self.patch.unused(f"{proto.name}_bias") if proto.name else ""
        add = helper.make_node("Add", [proto.output[0], bias], [output], name=name)
        if self.opset <= BROADCAST_ATTRIBUTE_UNTIL:
            add.attribute.append(helper.make_attribute("broadcast", 1))
        self.patch.insert(place.scope, place.positions[0] + 1, add)

    def join_around(self, bn: Node) -> None:
        """A batch norm, or a run of constants, goes; what is before it and what is behind it are one value."""
        place = self.view.places[bn.index]
        self.patch.remove(place.scope, place.positions, place.constants)
        self.make_one(place, place.data, place.proto.name)

    def take_out(self, nodes: Iterable[Node]) -> None:
        """Nodes go whose results nobody reads any more."""
        for node in nodes:
            place = self.view.places[node.index]
            self.patch.remove(place.scope, place.positions, place.constants)
            self.patch.forget(place.scope, place.output)

    def thin_sum(self, index: int, slots: frozenset[int]) -> None:
        """A sum loses the addends on ``slots``; where only one is left it is that one, and where none is, it goes."""
        place = self.view.places[index]
        proto = place.proto
        remaining = [name for slot, name in enumerate(proto.input) if slot not in slots]
        if len(remaining) > 1:
            del proto.input[:]
            proto.input.extend(remaining)
            return
        self.patch.remove(place.scope, place.positions, ())
        if remaining:
            self.make_one(place, remaining[0], proto.name)
        else:
            self.patch.forget(place.scope, place.output)

    def make_one(self, place: Place, data: str, label: str) -> None:
        """Join ``data`` and the output at ``place``, whose nodes go, under one name.

        Where nobody else reads ``data``, whatever produced that now produces the output, under the output's name.
        Otherwise the readers of the output read ``data``; an output of the model stays one by an Identity.
        """
        scope, output = place.scope, place.output
        if scope.id(data) in self.movable and scope.id(data) in self.patch.producers:
            self.patch.rename_output(scope, data, output)
        elif scope.id(output) in self.view.graph.outputs:
            identity = helper.make_node("Identity", [data], [output], name=label)
            self.patch.insert(scope, place.positions[-1] + 1, identity)
        else:
            self.patch.read_instead(scope, output, data)


def _movable(graph: GraphView) -> set[str]:
    """The inputs of what may go, that nobody else reads and that are no outputs: they may take another name."""
    inputs = {value for node in graph.nodes if node.kind in MAY_GO for value in node.inputs if value is not None}
    return {value for value in inputs if len(graph.readers(value)) == 1 and not graph.is_output(value)}


def _bias_for(weight: str) -> str:
    """A name for the bias that belongs to a weight: ``conv1.weight`` → ``conv1.bias``."""
    return f"{weight.removesuffix('weight')}bias" if weight.endswith("weight") else f"{weight}_bias"
