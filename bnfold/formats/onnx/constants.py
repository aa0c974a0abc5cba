"""Which values of a model are known before it runs: initializers, Constant nodes, and Identity of either."""

from __future__ import annotations

from functools import partial

import numpy as np
from onnx import AttributeProto, NodeProto, TensorProto, helper, numpy_helper

from bnfold.core.graph import Constant, Lock, Value
from bnfold.core.reason import Reason
from bnfold.formats.onnx.scopes import ONNX_DOMAINS, Scope
from bnfold.formats.onnx.tensors import dtype_name, tensor_values

OVERRIDABLE_FROM_IR = 4
"""From this IR version on an initializer that is also a graph input is a default that callers may replace."""


def constant_values(scopes: list[Scope], ir_version: int, *, freeze: bool) -> dict[str, Value]:
    """Every value that is known, or would be but for a lock, by id; with ``freeze``, overridable initializers too."""
    values: dict[str, Value] = {}
    aliases: dict[str, str] = {}
    for scope in scopes:
        values |= _stored_values(scope, ir_version, freeze=freeze)
        for node in scope.graph.node:
            if node.domain not in ONNX_DOMAINS:
                continue
            if node.op_type == "Constant" and (tensor := constant_tensor(node)) is not None:
                values[scope.id(node.output[0])] = _known(scope.id(node.output[0]), tensor)
            elif node.op_type == "Identity":
                aliases[scope.id(node.output[0])] = scope.id(node.input[0])
    for alias in aliases:
        found = values.get(_origin(alias, aliases))
        if found is not None:
            values[alias] = Value(alias, found.constant, found.lock)
    return values


def constant_tensor(node: NodeProto) -> TensorProto | None:
    """The tensor of a Constant node; None where it is a string or sparse. A number becomes a tensor of its own."""
    attribute = next(iter(node.attribute), AttributeProto())
    if attribute.name == "value":
        return attribute.t
    dtype = {"value_float": np.float32, "value_floats": np.float32, "value_int": np.int64, "value_ints": np.int64}
    if attribute.name not in dtype:
        return None
    values = np.asarray(helper.get_attribute_value(attribute), dtype[attribute.name])
    return numpy_helper.from_array(values, node.output[0])


def _stored_values(scope: Scope, ir_version: int, *, freeze: bool) -> dict[str, Value]:
    """The initializers of one graph."""
    are_defaults = ir_version >= OVERRIDABLE_FROM_IR and not freeze
    overridable = {value.name for value in scope.graph.input} if are_defaults else set()
    values = {}
    for tensor in scope.graph.initializer:
        value_id = scope.id(tensor.name)
        lock = Lock(Reason.OVERRIDABLE_INITIALIZER, f"{tensor.name!r} is also an input, which callers may replace")
        values[value_id] = Value(value_id, lock=lock) if tensor.name in overridable else _known(value_id, tensor)
    for sparse in scope.graph.sparse_initializer:
        value_id = scope.id(sparse.values.name)
        lock = Lock(Reason.WEIGHT_NOT_CONSTANT, f"{sparse.values.name!r} is stored as a sparse tensor")
        values[value_id] = Value(value_id, lock=lock)
    return values


def _known(value_id: str, tensor: TensorProto) -> Value:
    """The value of a stored tensor; strings are of no use to folding."""
    if tensor.data_type == TensorProto.STRING:
        return Value(value_id)
    load = partial(tensor_values, tensor)
    return Value(value_id, Constant(value_id, dtype_name(tensor), tuple(tensor.dims), load))


def _origin(value_id: str, aliases: dict[str, str]) -> str:
    """Where a chain of Identity nodes begins; the chain's own start where it runs in a circle."""
    seen = {value_id}
    while value_id in aliases and aliases[value_id] not in seen:
        value_id = aliases[value_id]
        seen.add(value_id)
    return value_id
