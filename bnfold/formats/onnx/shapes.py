"""Types and shapes as onnx infers them, from a copy of the model without its large tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from onnx import GraphProto, ModelProto, TensorProto, TensorShapeProto, ValueInfoProto, shape_inference

from bnfold.core.graph import Dimension, Shape
from bnfold.formats.onnx.channels import tell_channels
from bnfold.formats.onnx.raising import raise_for_inference
from bnfold.formats.onnx.references import is_reference
from bnfold.formats.onnx.scopes import OVERRIDABLE_FROM_IR, Scope, scopes_of
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


def inferred_types(model: ModelProto, scopes: list[Scope], *, freeze: bool) -> dict[str, TensorType]:
    """The type of every tensor of which at least the data type is known, by id.

    What follows from the inputs counts, and not what value infos say: they often are of an earlier state of the model
    (another batch), and runtimes only warn. They are believed where nothing follows, behind operators that onnx does
    not know; and nothing but the inputs is, where inference finds the model inconsistent.
    """
    skeleton = _skeleton(model, freeze=freeze)
    raise_for_inference(skeleton)
    try:
        inferred = _infer(skeleton)
        if _believe(model, inferred):
            inferred = _infer(inferred)
        if tell_channels(scopes_of(inferred)):
            inferred = _infer(inferred)
    except (shape_inference.InferenceError, ValueError, RuntimeError):  # its words for shapes, types, and the rest
        return _types(scopes, lambda scope: scope.graph.input)
    found = _types(scopes_of(inferred), _all_values)
    return _types(scopes, _all_values) | {value: known for value, known in found.items() if known.shape is not None}


def known_shapes(types: Mapping[str, TensorType]) -> dict[str, Shape]:
    """The shape of every value of which at least the rank is known."""
    return {value: known.shape for value, known in types.items() if known.shape is not None}


def _infer(model: ModelProto) -> ModelProto:
    return shape_inference.infer_shapes(model, data_prop=True)


def _believe(model: ModelProto, inferred: ModelProto) -> bool:
    """Enter the value infos of ``model`` for values of which inference knows no shape; whether there were any."""
    known = {value.name for value in inferred.graph.value_info if value.type.tensor_type.HasField("shape")}
    missing = [value for value in model.graph.value_info if value.name not in known]
    names = {value.name for value in missing}
    unshaped = [value for value in inferred.graph.value_info if value.name not in names]
    del inferred.graph.value_info[:]
    inferred.graph.value_info.extend([*unshaped, *missing])
    return bool(missing)


def _skeleton(model: ModelProto, *, freeze: bool) -> ModelProto:
    """The model with its large initializers turned into inputs of the same shape, and nothing said of other values."""
    graph = GraphProto(name=model.graph.name, node=model.graph.node, output=model.graph.output)
    graph.input.extend(model.graph.input)
    inputs = {value.name for value in graph.input}
    may_differ = inputs if model.ir_version >= OVERRIDABLE_FROM_IR and not freeze else set()
    for tensor in model.graph.initializer:
        if tensor.name in may_differ:
            continue  # a default: callers may give other sizes
        if not is_reference(tensor) and tensor.ByteSize() <= SHAPE_TENSOR_BYTES:
            graph.initializer.append(tensor)
        elif tensor.name not in inputs:
            graph.input.append(_declaration(tensor))
    skeleton = ModelProto(
        ir_version=model.ir_version, opset_import=model.opset_import, functions=model.functions, graph=graph
    )
    for scope in scopes_of(skeleton):
        del scope.graph.value_info[:]
        for value in scope.graph.output:
            if value.type.HasField("tensor_type"):
                value.type.tensor_type.ClearField("shape")
    return skeleton


def _declaration(tensor: TensorProto) -> ValueInfoProto:
    declaration = ValueInfoProto(name=tensor.name)
    declaration.type.tensor_type.elem_type = tensor.data_type
    declaration.type.tensor_type.shape.dim.extend(TensorShapeProto.Dimension(dim_value=size) for size in tensor.dims)
    return declaration


def _types(scopes: list[Scope], values: Callable[[Scope], Iterable[ValueInfoProto]]) -> dict[str, TensorType]:
    """The types that some ``values`` of each graph declare."""
    types = {}
    for scope in scopes:
        for value in values(scope):
            declared = value.type.tensor_type
            if not declared.elem_type:
                continue
            shape = tuple(map(_dimension, declared.shape.dim))
            types[scope.id(value.name)] = TensorType(declared.elem_type, shape if declared.HasField("shape") else None)
    return types


def _all_values(scope: Scope) -> Iterable[ValueInfoProto]:
    return (*scope.graph.input, *scope.graph.value_info, *scope.graph.output)


def _dimension(dim: TensorShapeProto.Dimension) -> Dimension:
    """A size that is one, a symbol, or unknown."""
    if dim.HasField("dim_value"):
        return dim.dim_value if dim.dim_value >= 0 else None
    return dim.dim_param or None
