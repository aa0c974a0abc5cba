"""Shapes as onnx infers them, from a copy of the model without its large tensors."""

from __future__ import annotations

from onnx import GraphProto, ModelProto, TensorProto, ValueInfoProto, helper, shape_inference

from bnfold.core.graph import Shape
from bnfold.formats.onnx.scopes import Scope, scopes_of

SHAPE_TENSOR_BYTES = 1024
"""Tensors up to this size are kept: the shapes, axes and sizes that inference reads."""


def inferred_shapes(model: ModelProto, scopes: list[Scope]) -> dict[str, Shape]:
    """The shape of every value of which at least the rank is known, by id.

    Where inference finds the model inconsistent, what the model declares itself is all that is known.
    """
    try:
        inferred = shape_inference.infer_shapes(_skeleton(model), data_prop=True)
    except shape_inference.InferenceError:
        return _declared_shapes(scopes)
    return _declared_shapes(scopes_of(inferred))


def _skeleton(model: ModelProto) -> ModelProto:
    """The model with its large initializers turned into inputs of the same shape."""
    graph = GraphProto(name=model.graph.name, node=model.graph.node, output=model.graph.output)
    graph.value_info.extend(model.graph.value_info)
    graph.input.extend(model.graph.input)
    inputs = {value.name for value in graph.input}
    for tensor in model.graph.initializer:
        if tensor.ByteSize() <= SHAPE_TENSOR_BYTES:
            graph.initializer.append(tensor)
        elif tensor.name not in inputs:
            graph.input.append(_declaration(tensor))
    return ModelProto(
        ir_version=model.ir_version, opset_import=model.opset_import, functions=model.functions, graph=graph
    )


def _declaration(tensor: TensorProto) -> ValueInfoProto:
    return helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))


def _declared_shapes(scopes: list[Scope]) -> dict[str, Shape]:
    """The shapes that inputs, outputs and value infos declare."""
    shapes: dict[str, Shape] = {}
    for scope in scopes:
        for value in (*scope.graph.input, *scope.graph.value_info, *scope.graph.output):
            tensor_type = value.type.tensor_type
            if tensor_type.HasField("shape"):
                dims = tensor_type.shape.dim
                shapes[scope.id(value.name)] = tuple(
                    dim.dim_value if dim.HasField("dim_value") else dim.dim_param or None for dim in dims
                )
    return shapes
