"""A plan becomes edits of the protobuf: new tensors under unused names, batch norms out, nothing unread left behind."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import Protocol

from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper

from bnfold.core.graph import Constant, GraphView, OpKind, ScaleShiftTraits
from bnfold.core.kernel import kernel_of, layer_constants
from bnfold.core.pointwise import run_affine, scale_and_shift, swallowed
from bnfold.core.rounding import rounded
from bnfold.core.verdict import Edit, Fold, Plan
from bnfold.formats.onnx.constants import OVERRIDABLE_FROM_IR
from bnfold.formats.onnx.scopes import ONNX_DOMAINS, Scope
from bnfold.formats.onnx.tensors import make_tensor
from bnfold.formats.onnx.view import OnnxView, Place

BROADCAST_ATTRIBUTE_UNTIL = 6
"""Up to this opset Gemm adds a vector only where ``broadcast`` is set."""


def apply_plan(model: ModelProto, view: OnnxView, plan: Plan) -> None:
    """Edit ``model``, of which ``view`` is the view, as ``plan`` says."""
    editor = _Editor(model, view)
    for edit in plan.edits:
        if isinstance(edit.node.traits, ScaleShiftTraits):
            editor.rewrite_run(edit)
        elif edit.node.kind is OpKind.BATCH_NORM:
            editor.rewrite_batch_norm(edit)
        else:
            editor.rewrite_layer(edit)
    for fold in plan.removals:
        editor.remove(fold)
    editor.finish()


class Named(Protocol):
    """A protobuf message with a name."""

    name: str


class RepeatedNamed(Protocol):
    """A repeated field of named messages."""

    def __len__(self) -> int: ...
    def __getitem__(self, position: int) -> Named: ...
    def __delitem__(self, position: int) -> None: ...


class _Editor:
    """Node positions stay valid until ``finish``, which carries out insertions and removals."""

    def __init__(self, model: ModelProto, view: OnnxView) -> None:
        self.model = model
        self.view = view
        self.names = _all_names(view.scopes)
        self.producers = {
            scope.id(name): node for scope in view.scopes for node in scope.graph.node for name in node.output if name
        }
        self.readers = _readers(view.scopes)
        self.movable = _movable(view.graph)
        self.removed: list[Place] = []
        self.inserted: list[tuple[GraphProto, int, NodeProto]] = []
        """Nodes to come, with the position before which they go; those for the same position in their order."""
        self.orphans: list[tuple[Scope, str]] = []
        self.vanished: defaultdict[str, set[str]] = defaultdict(set)

    def rewrite_layer(self, edit: Edit) -> None:
        """The layer reads new tensors; the old ones go once nobody reads them."""
        graph, place = self.view.graph, self.view.places[edit.node.index]
        weight, bias, _ = layer_constants(graph, edit.node)
        bias_dtype = bias.dtype if bias else weight.dtype
        new_weight, new_bias = kernel_of(graph, edit.node).after(edit.steps).stored(weight.dtype, bias_dtype)
        proto = place.proto
        old_weight = proto.input[1]
        self.orphans.append((place.scope, old_weight))
        proto.input[1] = self.add_tensor(make_tensor(self.unused(f"{old_weight}_folded"), new_weight, weight.dtype))
        if new_bias is None:
            return
        old_bias = self.bias_name(place, bias)
        tensor = make_tensor(self.unused(f"{old_bias or _bias_for(old_weight)}_folded"), new_bias, bias_dtype)
        if old_bias:
            self.orphans.append((place.scope, old_bias))
        self.set_bias(place, self.add_tensor(tensor))

    def rewrite_batch_norm(self, edit: Edit) -> None:
        """The batch norm reads a new scale and shift."""
        place = self.view.places[edit.node.index]
        for slot, values in enumerate(scale_and_shift(self.view.graph, edit.node, edit.steps), start=1):
            constant = self.view.graph.constant(edit.node.inputs[slot])
            if constant is None:
                raise ValueError(f"{edit.node.label!r} has no constant parameters")
            old = place.proto.input[slot]
            self.orphans.append((place.scope, old))
            place.proto.input[slot] = self.add_tensor(make_tensor(self.unused(f"{old}_folded"), values, constant.dtype))

    def rewrite_run(self, edit: Edit) -> None:
        """A multiplication and an addition take the place of a run; one that would change nothing is left out."""
        graph, place = self.view.graph, self.view.places[edit.node.index]
        scope, constant = place.scope, graph.constant(edit.node.inputs[1])
        shape = graph.shape(edit.node.data)
        if constant is None or shape is None:
            raise ValueError(f"{edit.node.label!r} has no constant, or no shape")
        affine = swallowed(run_affine(graph, edit.node), edit.steps)
        parts = [("Mul", affine.scale, (affine.scale != 1).any()), ("Add", affine.shift, (affine.shift != 0).any())]
        needed = [(op, values) for op, values, is_needed in parts if is_needed] or [("Mul", affine.scale)]
        source = place.data
        axes = [affine.channels, *[1] * (len(shape) - 1 - affine.axis)]
        for position, (op, values) in enumerate(needed, start=1):
            stored = make_tensor(
                self.unused(f"{place.output}_{op.lower()}"),
                rounded(values.reshape(axes), constant.dtype),
                constant.dtype,
            )
            result = place.output if position == len(needed) else self.unused(f"{place.output}_scaled")
            name = self.unused(f"{place.proto.name}_{op.lower()}") if place.proto.name else ""
            node = helper.make_node(op, [source, self.add_tensor(stored)], [result], name=name)
            self.inserted.append((scope.graph, place.positions[-1] + 1, node))
            self.readers[scope.id(source)].append(node)
            self.producers[scope.id(result)] = node
            source = result
        self.removed.append(place)
        self.orphans += [(scope, name) for name in place.constants]

    def bias_name(self, place: Place, bias: Constant | None) -> str:
        """The name of a layer's bias in the protobuf; empty where it has none."""
        if bias is None:
            return ""
        names = place.proto.input if place.bias_add is None else place.bias_add.input
        return str(names[2] if place.bias_add is None else names[_bias_slot(place)])

    def set_bias(self, place: Place, name: str) -> None:
        """The layer adds the tensor ``name``, with gain 1."""
        proto = place.proto
        if place.bias_add is not None:
            place.bias_add.input[_bias_slot(place)] = name
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
        opset = next((item.version for item in self.model.opset_import if item.domain in ONNX_DOMAINS), 1)
        if opset <= BROADCAST_ATTRIBUTE_UNTIL and not any(item.name == "broadcast" for item in proto.attribute):
            proto.attribute.append(helper.make_attribute("broadcast", 1))

    def insert_add(self, place: Place, bias: str) -> None:
        """An Add behind a MatMul, which has no bias of its own; it produces what the MatMul did."""
        proto, output = place.proto, place.proto.output[0]
        proto.output[0] = self.unused(f"{output}_product")
        name = self.unused(f"{proto.name}_bias") if proto.name else ""
        add = helper.make_node("Add", [proto.output[0], bias], [output], name=name)
        self.producers[place.scope.id(output)] = add
        self.inserted.append((place.scope.graph, place.positions[0] + 1, add))

    def remove(self, fold: Fold) -> None:
        """Join what is before a batch norm, or a run of constants, and what is behind it under one name.

        Where nobody else reads its input, whatever produced that now produces its output, under the output's name.
        Otherwise the readers of the output read the input; an output of the model stays one by an Identity.
        """
        place = self.view.places[fold.bn.index]
        scope, data, output = place.scope, place.data, place.output
        self.orphans += [(scope, name) for name in place.constants]
        self.removed.append(place)
        producer = self.producers.get(scope.id(data)) if scope.id(data) in self.movable else None
        if producer is not None:
            producer.output[list(producer.output).index(data)] = output
            self.producers[scope.id(output)] = self.producers.pop(scope.id(data))
            self.read_instead(scope, data, output)
            self.vanished[scope.prefix].add(data)
        elif scope.id(output) in self.view.graph.outputs:
            identity = helper.make_node("Identity", [data], [output], name=place.proto.name)
            self.inserted.append((scope.graph, place.positions[-1] + 1, identity))
        else:
            self.read_instead(scope, output, data)
            self.vanished[scope.prefix].add(output)

    def read_instead(self, scope: Scope, old: str, new: str) -> None:
        """Whoever reads ``old`` reads ``new``."""
        for reader in self.readers.pop(scope.id(old), ()):
            _rename_input(reader, old, new)
            self.readers[scope.id(new)].append(reader)

    def finish(self) -> None:
        """Carry out insertions and removals, from the last position to the first, then drop what nobody reads."""
        changes: list[tuple[int, bool, int, GraphProto, NodeProto | None]]
        changes = [(at, True, 0, place.scope.graph, None) for place in self.removed for at in place.positions]
        changes += [(at, False, order, graph, node) for order, (graph, at, node) in enumerate(self.inserted)]
        for position, _, _, graph, node in sorted(changes, key=lambda change: change[:3], reverse=True):
            if node is None:
                del graph.node[position]
            else:
                graph.node.insert(position, node)
        self.drop_orphans()
        for scope in self.view.scopes:
            _drop(scope.graph.value_info, self.vanished[scope.prefix])

    def drop_orphans(self) -> None:
        """Drop old tensors that nobody reads any more, and the nodes that made them."""
        uses = Counter(scope.id(name) for scope in self.view.scopes for node in scope.graph.node for name in node.input)
        uses.update(scope.id(value.name) for scope in self.view.scopes for value in scope.graph.output)
        dropped: defaultdict[str, set[str]] = defaultdict(set)
        pending = self.orphans
        while pending:
            reader, name = pending.pop()
            scope = reader.owner(name)
            if scope is None or uses[scope.id(name)] or name in dropped[scope.prefix]:
                continue
            if self.view.graph.value_of(scope.id(name)) is None:
                continue
            dropped[scope.prefix].add(name)
            node = self.producers.get(scope.id(name))
            for source in node.input if node else ():
                uses[scope.id(source)] -= 1
                pending.append((scope, source))
        for scope in self.view.scopes:
            names = dropped[scope.prefix]
            self.vanished[scope.prefix] |= names
            _drop(scope.graph.input, names)
            _drop(scope.graph.initializer, names)
            _drop_nodes(scope.graph, names)

    def add_tensor(self, tensor: TensorProto) -> str:
        """A new initializer of the main graph, which every subgraph sees; before IR 4 it must be an input too."""
        graph = self.model.graph
        graph.initializer.append(tensor)
        if self.model.ir_version < OVERRIDABLE_FROM_IR:
            graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))
        return tensor.name

    def unused(self, wish: str) -> str:
        """``wish``, or the first of ``wish_2``, ``wish_3``, … that nothing in the model is called."""
        name, number = wish, 1
        while name in self.names:
            number += 1
            name = f"{wish}_{number}"
        self.names.add(name)
        return name


def _movable(graph: GraphView) -> set[str]:
    """The inputs of batch norms and runs that nobody else reads and that are no outputs: they may take another name."""
    inputs = (node.data for node in graph.affine_nodes)
    return {value for value in inputs if len(graph.readers(value)) == 1 and not graph.is_output(value)}


def _readers(scopes: list[Scope]) -> defaultdict[str, list[NodeProto]]:
    """The nodes that read each value in its own graph."""
    readers: defaultdict[str, list[NodeProto]] = defaultdict(list)
    for scope in scopes:
        for node in scope.graph.node:
            for name in node.input:
                readers[scope.id(name)].append(node)
    return readers


def _rename_input(node: NodeProto, old: str, new: str) -> None:
    """Let ``node`` read ``new`` wherever it reads ``old``."""
    for slot, name in enumerate(node.input):
        if name == old:
            node.input[slot] = new


def _bias_slot(place: Place) -> int:
    """The input slot of the bias in the Add behind a MatMul."""
    add = place.bias_add
    return 1 if add is not None and add.input[0] == place.proto.output[0] else 0


def _bias_for(weight: str) -> str:
    """A name for the bias that belongs to a weight: ``conv1.weight`` → ``conv1.bias``."""
    return f"{weight.removesuffix('weight')}bias" if weight.endswith("weight") else f"{weight}_bias"


def _drop(items: RepeatedNamed, names: Iterable[str]) -> None:
    """Delete the items that have one of these names."""
    unwanted = set(names)
    for position in range(len(items) - 1, -1, -1):
        if items[position].name in unwanted:
            del items[position]


def _drop_nodes(graph: GraphProto, names: Iterable[str]) -> None:
    """Delete the nodes that produce nothing but these names."""
    unwanted = set(names)
    if not unwanted:
        return
    for position in range(len(graph.node) - 1, -1, -1):
        outputs = graph.node[position].output
        if outputs and unwanted.issuperset(outputs):
            del graph.node[position]


def _all_names(scopes: list[Scope]) -> set[str]:
    """Every name of a value or node, anywhere in the model."""
    names = {name for scope in scopes for name in scope.defined}
    for scope in scopes:
        for node in scope.graph.node:
            names.add(node.name)
            names.update(node.input)
    return names
