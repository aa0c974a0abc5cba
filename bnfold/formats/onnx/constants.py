"""Which values of a model are known before it runs: initializers, Constant nodes, and what is computed from them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np
from onnx import AttributeProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto, helper, numpy_helper

from bnfold.core.graph import Constant, Lock, Value
from bnfold.core.reason import Reason
from bnfold.formats.onnx.attributes import has_attributes_of_its_types
from bnfold.formats.onnx.computing import COMPUTABLE, Array, compute
from bnfold.formats.onnx.functions import shadowed_operators
from bnfold.formats.onnx.scopes import ONNX_DOMAINS, OVERRIDABLE_FROM_IR, Call, Scope
from bnfold.formats.onnx.shapes import TensorType
from bnfold.formats.onnx.tensors import dtype_name, tensor_values, widened

LARGEST_VIEW = 1 << 60
"""NumPy has no arrays of more elements, even if they take no memory."""
SMALL_BYTES = 1 << 16
"""What is computed from tensors up to this size is computed at once; from larger ones, whenever it is asked for."""


class Constants:
    """The known values of a model, by id. Stored tensors are listed at once, computed ones when somebody asks."""

    def __init__(
        self,
        model: ModelProto,
        scopes: list[Scope],
        load_types: Callable[[], Mapping[str, TensorType]],
        *,
        freeze: bool,
    ) -> None:
        self._load_types = load_types
        self._opsets = model.opset_import
        self._opset = next((item.version for item in model.opset_import if item.domain in ONNX_DOMAINS), 1)
        self._values: dict[str, Value | None] = {}
        self._arrays: dict[str, Callable[[], Array]] = {}
        """The values as they are stored, before any widening, for computing with them."""
        self._makers: dict[str, tuple[Scope, NodeProto]] = {}
        self._arguments: dict[str, tuple[Scope, int]] = {}
        """The inputs of local functions: of which body, and which one."""
        self._shadowed = shadowed_operators(model)
        for scope in scopes:
            names = scope.function.input if scope.function else ()
            self._arguments |= {scope.id(name): (scope, position) for position, name in enumerate(names)}
            self._add_tensors(scope, model.ir_version, freeze=freeze)
            for node in scope.graph.node:
                self._add_node(scope, node)

    def value(self, value_id: str) -> Value | None:
        """What is known of a value: its constant, or a lock that says why not; None where the model computes it."""
        if value_id not in self._values and value_id in self._makers:
            self._values[value_id] = None  # where a chain runs in a circle, this ends it
            self._values[value_id] = self._computed(value_id, *self._makers[value_id])
        if value_id not in self._values and value_id in self._arguments:
            self._values[value_id] = None
            self._values[value_id] = self._argument(value_id, *self._arguments[value_id])
        return self._values.get(value_id)

    def holds_square_root(self, value_id: str) -> bool:
        """Whether a square root takes part in computing a constant, as in √(var + ε)."""
        pending, seen = [value_id], set()
        while pending:
            current = pending.pop()
            if current in seen:
                continue
            seen.add(current)
            if current in self._arguments:
                pending += [call.scope.id(name) for call, name in self._given(*self._arguments[current])]
            if current not in self._makers:
                continue
            scope, node = self._makers[current]
            if node.op_type == "Sqrt":
                return True
            pending += [scope.id(name) for name in node.input]
        return False

    def _add_tensors(self, scope: Scope, ir_version: int, *, freeze: bool) -> None:
        """The initializers of one graph."""
        are_defaults = ir_version >= OVERRIDABLE_FROM_IR and not freeze
        overridable = {value.name for value in scope.graph.input} if are_defaults else set()
        for tensor in scope.graph.initializer:
            if tensor.name in overridable:
                lock = Lock(
                    Reason.OVERRIDABLE_INITIALIZER, f"{tensor.name!r} is also an input, which callers may replace"
                )
                self._values[scope.id(tensor.name)] = Value(scope.id(tensor.name), lock=lock)
            else:
                self._add_tensor(scope.id(tensor.name), tensor)
        for sparse in scope.graph.sparse_initializer:
            value_id = scope.id(sparse.values.name)
            lock = Lock(Reason.WEIGHT_NOT_CONSTANT, f"{sparse.values.name!r} is stored as a sparse tensor")
            self._values[value_id] = Value(value_id, lock=lock)

    def _add_node(self, scope: Scope, node: NodeProto) -> None:
        """A Constant node's tensor, or a node that may turn out to be computable."""
        if node.op_type != "Constant" and node.op_type not in COMPUTABLE:
            return
        if node.domain not in ONNX_DOMAINS or not node.output or node.op_type in self._shadowed:
            return
        if not has_attributes_of_its_types(node, self._opset):
            return
        value_id = scope.id(node.output[0])
        if node.op_type == "Constant" and (tensor := _constant_tensor(node)) is not None:
            self._add_tensor(value_id, tensor)
        elif node.op_type != "Constant":
            self._makers[value_id] = (scope, node)

    def _add_tensor(self, value_id: str, tensor: TensorProto) -> None:
        """A stored tensor; strings are of no use to folding, nor are types that are no types."""
        if tensor.data_type == TensorProto.STRING:
            return
        dtype = dtype_name(tensor.data_type)
        if dtype is None or any(size < 0 for size in tensor.dims):
            lock = Lock(Reason.WEIGHT_NOT_CONSTANT, f"{tensor.name!r} is of no known type or size")
            self._values[value_id] = Value(value_id, lock=lock)
            return
        load = partial(tensor_values, tensor)
        self._arrays[value_id] = load
        constant = Constant(value_id, dtype, tuple(tensor.dims), lambda: widened(load()))
        self._values[value_id] = Value(value_id, constant)

    def _computed(self, value_id: str, scope: Scope, node: NodeProto) -> Value | None:
        """The value that a node computes, if all of its inputs are known as far as the node reads them."""
        sources = [self._source(scope, node, slot) for slot in range(len(node.input))]
        lock = next((source for source in sources if isinstance(source, Lock)), None)
        if lock is not None:
            return Value(value_id, lock=lock)
        loaders = [source for source in sources if source is not None and not isinstance(source, Lock)]
        if len(loaders) != len(sources):
            return None
        run = partial(_run, node, loaders, self._opsets)
        names = [scope.id(name) for name in node.input if name]
        if any(self._stored_bytes(name) > SMALL_BYTES for name in names):
            return self._computed_later(value_id, run)
        values = run()
        if values is None:
            return None
        return self._add_array(value_id, str(values.dtype), values.shape, lambda: values)

    def _given(self, body: Scope, position: int) -> list[tuple[Call, str]]:
        """What the callers of a function give it as one of its inputs; without those who leave it out."""
        return [
            (call, call.node.input[position])
            for call in body.calls
            if position < len(call.node.input) and call.node.input[position]
        ]

    def _argument(self, value_id: str, body: Scope, position: int) -> Value | None:
        """An input of a function: what the one call gives; where there are more, their constants may differ."""
        given = [(call.scope.id(name), self.value(call.scope.id(name))) for call, name in self._given(body, position)]
        if len(body.calls) == 1 and given and given[0][1] is not None:
            source, value = given[0]
            if source in self._arrays:
                self._arrays[value_id] = self._arrays[source]
            return Value(value_id, value.constant, value.lock) if value else None
        if body.function is None or len(body.calls) == 1 or any(value is None for _, value in given):
            return None
        detail = f"the function {body.function.name!r} takes it from its callers, which are {len(body.calls)}"
        return Value(value_id, lock=Lock(Reason.INSIDE_FUNCTION, detail))

    def _computed_later(self, value_id: str, run: Callable[[], Array | None]) -> Value | None:
        """A value whose type and shape onnx can tell; it is computed whenever it is loaded, and not kept."""
        known = self._load_types().get(value_id)
        if known is None or known.static_shape is None or known.dtype is None:
            return None

        def load() -> Array:
            values = run()
            if values is None:
                raise ValueError(f"{value_id!r} cannot be computed")
            return values

        return self._add_array(value_id, known.dtype, known.static_shape, load)

    def _add_array(self, value_id: str, dtype: str, shape: tuple[int, ...], load: Callable[[], Array]) -> Value:
        self._arrays[value_id] = load
        return Value(value_id, Constant(value_id, dtype, shape, lambda: widened(load())))

    def _source(self, scope: Scope, node: NodeProto, slot: int) -> Callable[[], Array | None] | Lock | None:
        """A loader of what a node reads on an input slot, a lock, or None where it is not known."""
        if not node.input[slot]:
            return lambda: None
        value_id = scope.id(node.input[slot])
        value = self.value(value_id)
        if value is not None and value.lock is not None:
            return value.lock
        if value_id in self._arrays:
            return self._arrays[value_id]
        known = self._load_types().get(value_id) if reads_type_only(node, slot) else None
        if known is None or known.dtype is None:
            return None
        if node.op_type == "CastLike":
            return lambda: np.zeros(0, helper.tensor_dtype_to_np_dtype(known.data_type))
        shape = _shape_as_read(node, known)
        return None if shape is None else lambda: np.broadcast_to(np.zeros((), np.float32), shape)

    def _stored_bytes(self, value_id: str) -> int:
        """The size of a known tensor; 0 for what only lends its type or shape."""
        value = self._values.get(value_id)
        return int(np.prod(value.constant.shape)) * 4 if value and value.constant else 0


def _shape_as_read(node: NodeProto, known: TensorType) -> tuple[int, ...] | None:
    """A shape like the value's as far as ``node`` reads it: Shape's start and end may leave unknown sizes out."""
    shape = known.static_shape
    if known.shape is not None and node.op_type == "Shape":
        bounds = {item.name: item.i for item in node.attribute}
        wanted = range(len(known.shape))[bounds.get("start", 0) : bounds.get("end")]
        if not all(isinstance(known.shape[axis], int) for axis in wanted):
            return None
        shape = tuple(size if isinstance(size, int) else 1 for size in known.shape)
    return shape if shape is not None and math.prod(shape) <= LARGEST_VIEW else None


def reads_type_only(node: NodeProto, slot: int) -> bool:
    """Whether a node reads the shape or the dtype of an input, and none of its elements."""
    return node.op_type in {"Shape", "Size"} or (node.op_type == "CastLike" and slot == 1)


def _run(
    node: NodeProto, loaders: list[Callable[[], Array | None]], opsets: Sequence[OperatorSetIdProto]
) -> Array | None:
    return compute(node, [load() for load in loaders], opsets)


def _constant_tensor(node: NodeProto) -> TensorProto | None:
    """The tensor of a Constant node; None where it is a string or sparse. A number becomes a tensor of its own."""
    attribute = next(iter(node.attribute), AttributeProto())
    if attribute.name == "value":
        return attribute.t
    dtype = {"value_float": np.float32, "value_floats": np.float32, "value_int": np.int64, "value_ints": np.int64}
    if attribute.name not in dtype:
        return None
    values = np.asarray(helper.get_attribute_value(attribute), dtype[attribute.name])
    return numpy_helper.from_array(values, node.output[0])
