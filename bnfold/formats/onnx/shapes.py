"""Types and shapes as onnx infers them, from a copy of the model without its large tensors."""

from __future__ import annotations

from dataclasses import dataclass

from onnx import GraphProto, ModelProto, TensorProto, TensorShapeProto, ValueInfoProto, shape_inference

from bnfold.core.graph import Dimension, Shape
from bnfold.formats.onnx.channels import tell_channels
from bnfold.formats.onnx.raising import raise_for_inference
from bnfold.formats.onnx.references import is_reference
from bnfold.formats.onnx.scopes import Scope, scopes_of
from bnfold.formats.onnx.tensors import dtype_name

SHAPE_TENSOR_BYTES = 1024
"""Tensors up to this size are kept: the shapes, axes and sizes that inference reads."""


@dataclass(frozen=True)
class TensorType:
    """What is known of a tensor before it exists: its ONNX data type, and its shape, None where the rank is unknown."""

    data_type: int
    shape: Shape | None

    @property
    def dtype(self) -> str | None:
        """The data type in NumPy's words; None where it is none."""
        return dtype_name(self.data_type)

    @property
    def static_shape(self) -> tuple[int, ...] | None:
        """The shape where every dimension is a known size."""
        sizes = tuple(size for size in self.shape or () if isinstance(size, int))
        return sizes if self.shape is not None and len(sizes) == len(self.shape) else None


def inferred_types(model: ModelProto, scopes: list[Scope]) -> dict[str, TensorType]:
    """The type of every tensor of which at least the data type is known, by id.

    Where inference finds the model inconsistent, what the model declares itself is all that is known.
    """
    try:
        skeleton = _skeleton(model)
        raise_for_inference(skeleton)
        inferred = shape_inference.infer_shapes(skeleton, data_prop=True)
        found = scopes_of(inferred)
        if tell_channels(found):
            found = scopes_of(shape_inference.infer_shapes(inferred, data_prop=True))
    except (shape_inference.InferenceError, ValueError, RuntimeError):  # its words for shapes, types, and the rest
        return _declared_types(scopes)
    return _declared_types(found)


def _skeleton(model: ModelProto) -> ModelProto:
    """The model with its large initializers turned into inputs of the same shape."""
    graph = GraphProto(name=model.graph.name, node=model.graph.node, output=model.graph.output)
    graph.value_info.extend(model.graph.value_info)
    graph.input.extend(model.graph.input)
    inputs = {value.name for value in graph.input}
    for tensor in model.graph.initializer:
        if not is_reference(tensor) and tensor.ByteSize() <= SHAPE_TENSOR_BYTES:
            graph.initializer.append(tensor)
        elif tensor.name not in inputs:
            graph.input.append(_declaration(tensor))
    return ModelProto(
        ir_version=model.ir_version, opset_import=model.opset_import, functions=model.functions, graph=graph
    )


def _declaration(tensor: TensorProto) -> ValueInfoProto:
    declaration = ValueInfoProto(name=tensor.name)
    declaration.type.tensor_type.elem_type = tensor.data_type
    declaration.type.tensor_type.shape.dim.extend(TensorShapeProto.Dimension(dim_value=size) for size in tensor.dims)
    return declaration


def _declared_types(scopes: list[Scope]) -> dict[str, TensorType]:
    """The types that inputs, outputs and value infos declare."""
    types = {}
    for scope in scopes:
        for value in (*scope.graph.input, *scope.graph.value_info, *scope.graph.output):
            declared = value.type.tensor_type
            if not declared.elem_type:
                continue
            shape = tuple(map(_dimension, declared.shape.dim))
            types[scope.id(value.name)] = TensorType(declared.elem_type, shape if declared.HasField("shape") else None)
    return types


def _dimension(dim: TensorShapeProto.Dimension) -> Dimension:
    """A size that is one, a symbol, or unknown."""
    if dim.HasField("dim_value"):
        return dim.dim_value if dim.dim_value >= 0 else None
    return dim.dim_param or None
