"""An ONNX model as a graph view, and the way back from the view's nodes to the protobuf's."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache

from onnx import FunctionProto, ModelProto, NodeProto

from bnfold.core.graph import Constant, GraphView, Lock, Node, OpKind, Shape, Sums, Value
from bnfold.core.reason import Reason
from bnfold.core.traits import BatchNormTraits, ScaleShiftStep, ScaleShiftTraits
from bnfold.formats.onnx.constants import Constants
from bnfold.formats.onnx.functions import changed_operator, function_scopes, shadowed_operators
from bnfold.formats.onnx.meaning import Meaning, Operator
from bnfold.formats.onnx.operators import MATRIX
from bnfold.formats.onnx.places import Place
from bnfold.formats.onnx.runs import step_of
from bnfold.formats.onnx.scopes import ONNX_DOMAINS, Scope, scopes_of, uses_in
from bnfold.formats.onnx.shapes import TensorType, inferred_types, known_shapes
from bnfold.formats.onnx.table import meaning_of


@dataclass(frozen=True, eq=False)
class OnnxView:
    """The graph view of a model, the places of its nodes by index, and the graphs that it consists of."""

    graph: GraphView
    places: Mapping[int, Place]
    scopes: list[Scope]


def view_of(model: ModelProto, *, freeze: bool = False) -> OnnxView:
    """Translate ``model``; no tensor is read, and shapes are inferred only when a rule asks for one."""
    translation = _Translation(model, freeze=freeze)
    for scope in translation.scopes:
        translation.add_graph(scope)
    outputs = frozenset(scope.id(value.name) for scope in translation.scopes for value in scope.graph.output)
    graph = GraphView(tuple(translation.nodes), translation.value, outputs, translation.shapes, sums=Sums.JOIN_LAYERS)
    return OnnxView(graph, translation.places, translation.scopes)


class _Translation:
    """The work of ``view_of``: nodes get their indices, and their places, as they are added."""

    def __init__(self, model: ModelProto, *, freeze: bool) -> None:
        graphs = scopes_of(model)
        self.scopes = [*graphs, *function_scopes(model, graphs)]
        self.shadowed = shadowed_operators(model)
        self.opset = next((item.version for item in model.opset_import if item.domain in ONNX_DOMAINS), 1)
        bodies = ((scope.prefix, scope.function) for scope in self.scopes)
        self.changed = {prefix: changed_operator(body, self.opset) for prefix, body in bodies if body}
        self.types = cache(lambda: inferred_types(model, graphs, freeze=freeze))
        self.shapes = cache(lambda: known_shapes(self.types()))
        self.constants = Constants(model, self.scopes, self.types, freeze=freeze)
        self.outputs = {scope.id(value.name) for scope in self.scopes for value in scope.graph.output}
        self.uses = uses_in(self.scopes)
        self.nodes: list[Node] = []
        self.places: dict[int, Place] = {}
        self.captured: set[str] = set()
        self.matrices: dict[str, Value] = {}

    def add_graph(self, scope: Scope) -> None:
        """The operators of one graph, in order; a MatMul takes its bias Add along."""
        if scope.function:
            self.add_arguments(scope, scope.function)
        if scope.root.function and self.changed[scope.root.prefix]:
            self.add_unfollowed(scope, scope.root.function)
            return
        taken: set[int] = set()
        for position, proto in enumerate(scope.graph.node):
            if position in taken:
                continue
            inputs = tuple(self.resolve(scope, name) for name in proto.input)
            outputs = tuple(scope.id(name) for name in proto.output if name)
            run = self.run(scope, position)
            if run:
                self.add_run(scope, run)
                taken.update(run)
                continue
            meaning = meaning_of(
                Operator(proto, self.opset, inputs, outputs, self.constants.value, self.type_of), self.shadowed
            )
            if meaning.kind is OpKind.LINEAR and proto.op_type == "MatMul":
                meaning = self.as_matrix(meaning)
            positions: tuple[int, ...] = (position,)
            bias_add = self.bias_add(scope, proto, meaning)
            if bias_add is not None:
                add = scope.graph.node[bias_add]
                bias = next(name for name in add.input if name != proto.output[0])
                meaning = replace(meaning, inputs=(*meaning.inputs[:2], scope.id(bias)))
                outputs, positions = (scope.id(add.output[0]),), (position, bias_add)
                taken.add(bias_add)
            self.places[len(self.nodes)] = Place(scope, positions)
            self.add(proto, meaning, outputs)

    def add(self, proto: NodeProto, meaning: Meaning, outputs: tuple[str, ...]) -> None:
        """One more node of the view."""
        label = proto.name or next(filter(None, proto.output), proto.op_type)
        node = Node(
            len(self.nodes), meaning.kind, proto.op_type, label, meaning.inputs, outputs, meaning.traits, meaning.lock
        )
        self.nodes.append(node)

    def run(self, scope: Scope, position: int) -> dict[int, ScaleShiftStep]:
        """The operators with constants from ``position`` on, each the only reader of the one before, by position."""
        steps: dict[int, ScaleShiftStep] = {}
        while position not in steps and (step := self.step(scope, position)) is not None:
            axes = {known.axis for known in (*steps.values(), step) if known.axis is not None}
            if len(axes) > 1:
                break
            steps[position] = step
            result = scope.id(scope.graph.node[position].output[0])
            uses = self.uses.get(result, [])
            if len(uses) != 1 or uses[0][0] is not scope or result in self.outputs:
                break
            position = uses[0][1]
        return steps

    def step(self, scope: Scope, position: int) -> ScaleShiftStep | None:
        """What the node at ``position`` does, if it is arithmetic with a constant."""
        proto = scope.graph.node[position]
        if proto.op_type not in ARITHMETIC - self.shadowed or proto.domain not in ONNX_DOMAINS:
            return None
        inputs = tuple(self.resolve(scope, name) for name in proto.input)
        return step_of(proto, self.opset, inputs, self.constants.value, self.shape_of)

    def add_run(self, scope: Scope, run: dict[int, ScaleShiftStep]) -> None:
        """One node for a run of arithmetic; it is a batch norm where it scales and shifts each channel on its own."""
        protos = [scope.graph.node[position] for position in run]
        data_slots = tuple(1 - step.slot for step in run.values())
        data = self.resolve(scope, protos[0].input[data_slots[0]])
        shape = self.shapes()[data or ""]
        axis = next((step.axis for step in run.values() if step.axis is not None), min(1, len(shape) - 1))
        size = shape[axis] if shape else 1
        constants = [scope.id(proto.input[step.slot]) for proto, step in zip(protos, run.values(), strict=True)]
        traits = ScaleShiftTraits(tuple(run.values()), axis, size if isinstance(size, int) else 1)
        is_batch_norm = traits.normalises or any(map(self.constants.holds_square_root, constants))
        meaning = Meaning(OpKind.BATCH_NORM if is_batch_norm else OpKind.SCALE_SHIFT, (data, *constants), traits)
        self.places[len(self.nodes)] = Place(scope, tuple(run), data_slots)
        self.add(protos[0], meaning, (scope.id(protos[-1].output[0]),))

    def resolve(self, scope: Scope, name: str) -> str | None:
        """The id of an input; a value from an outer graph enters through a node of its own, so that nothing crosses."""
        if not name:
            return None
        owner = scope.owner(name)
        if owner is None or owner is scope or self.constants.value(owner.id(name)) is not None or scope.parent is None:
            return scope.id(name)
        local = scope.prefix + name
        if local not in self.captured:
            self.captured.add(local)
            outer = self.resolve(scope.parent, name)
            lock = Lock(Reason.NO_LINEAR_LAYER, "it enters a branch or a body, which is folded by itself")
            index = len(self.nodes)
            self.nodes.append(Node(index, OpKind.OPAQUE, "outer value", name, (outer,), (local,), lock=lock))
        return local

    def value(self, value_id: str) -> Value | None:
        """What is known of a value before the model runs."""
        return self.matrices[value_id] if value_id in self.matrices else self.constants.value(value_id)

    def as_matrix(self, meaning: Meaning) -> Meaning:
        """A layer whose weight has leading axes of size 1 has one without them."""
        weight = self.constants.value(meaning.inputs[1] or "")
        constant = weight.constant if weight else None
        if constant is None or len(constant.shape) <= MATRIX:
            return meaning
        sizes = constant.shape[-MATRIX:]
        name = f"{constant.tensor} as a matrix"
        while name in self.uses:
            name += "'"
        matrix = Constant(name, constant.dtype, sizes, lambda: constant.load().reshape(sizes))
        self.matrices[name] = Value(name, matrix)
        return replace(meaning, inputs=(meaning.inputs[0], name, *meaning.inputs[2:]))

    def bias_add(self, scope: Scope, proto: NodeProto, meaning: Meaning) -> int | None:
        """The position of the Add that alone reads a MatMul's product and adds a constant per output channel."""
        if meaning.kind is not OpKind.LINEAR or proto.op_type != "MatMul":
            return None
        product = scope.id(proto.output[0])
        uses = self.uses.get(product, [])
        if len(uses) != 1 or product in self.outputs:
            return None
        user, position = uses[0]
        add = user.graph.node[position]
        if user is not scope or add.op_type != "Add" or add.domain not in ONNX_DOMAINS:
            return None
        other = next(name for name in add.input if name != proto.output[0])
        value = self.constants.value(scope.id(other))
        weight = self.value(meaning.inputs[1] or "")
        if value is None or value.constant is None or weight is None or weight.constant is None:
            return None
        is_bias = self.is_bias(value.constant, weight.constant, product)
        return position if is_bias and (not add.attribute or self.is_last_axis(scope, position, product)) else None

    def is_last_axis(self, scope: Scope, position: int, product: str) -> bool:
        """Whether an Add of opset 6 or older, by its attributes, adds along the last axis of a product."""
        step, shape = self.step(scope, position), self.shapes().get(product)
        names_axis = any(attribute.name == "axis" for attribute in scope.graph.node[position].attribute)
        last = len(shape) - 1 if shape else None
        return step is not None and (step.axis == last or (step.axis is None and not names_axis))

    def is_bias(self, constant: Constant, weight: Constant, product: str) -> bool:
        """Whether adding ``constant`` to the product gives each output channel a number, and no further axes."""
        channels = weight.shape[1]
        if math.prod(constant.shape) not in {1, channels} or constant.shape[-1:] not in {(), (1,), (channels,)}:
            return False
        rank = len(constant.shape)
        if rank <= 1:
            return True
        product_shape = self.shapes().get(product)
        return product_shape is not None and rank <= len(product_shape)

    def shape_of(self, value: str) -> Shape | None:
        """The shape of a value as far as known; shapes are inferred when the first is asked for."""
        return self.shapes().get(value)

    def type_of(self, value: str) -> TensorType | None:
        """The type of a value as far as known."""
        return self.types().get(value)

    def add_arguments(self, body: Scope, function: FunctionProto) -> None:
        """What a function takes from its callers, if it is no constant, comes out of a node that nothing crosses."""
        lock = Lock(Reason.INSIDE_FUNCTION, f"of the function {function.name!r}, beyond which nothing is carried")
        for name in function.input:
            if self.constants.value(body.id(name)) is None:
                node = Node(len(self.nodes), OpKind.OPAQUE, "input", name, (), (body.id(name),), lock=lock)
                self.nodes.append(node)

    def add_unfollowed(self, scope: Scope, function: FunctionProto) -> None:
        """The batch norms of a function that holds an operator which would be another one in the model; they stay."""
        own = next(item.version for item in function.opset_import if item.domain in ONNX_DOMAINS)
        which = f"{self.changed[scope.root.prefix]} of opset {own}, which is another one at the model's {self.opset}"
        lock = Lock(Reason.INSIDE_FUNCTION, f"the function {function.name!r} has a {which}")
        for proto in scope.graph.node:
            if proto.op_type == "BatchNormalization" and proto.domain in ONNX_DOMAINS:
                inputs = tuple(scope.id(name) if name else None for name in proto.input)
                meaning = Meaning(OpKind.BATCH_NORM, inputs, BatchNormTraits(epsilon=0.0), lock)
                self.add(proto, meaning, tuple(scope.id(name) for name in proto.output if name))


ARITHMETIC = frozenset({"Add", "Sub", "Mul", "Div"})
