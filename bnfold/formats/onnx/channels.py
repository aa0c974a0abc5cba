"""What the readers of a value say about its shape: a batch norm, or a layer, fits one number of channels alone.

Inference does not look that way. It knows no size of ``view(batch · tokens, -1)``, as torch's older exporter writes it,
though a batch norm of 8 channels reads the result.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from onnx import NodeProto, TensorShapeProto

from bnfold.formats.onnx.scopes import ONNX_DOMAINS, Scope

Dims = list[int]
MATRIX = 2
"""The rank of a matrix."""


def tell_channels(scopes: Sequence[Scope]) -> bool:
    """Enter the channels that readers ask for where the declared shapes have no size; whether any was entered."""
    shapes = {scope.id(name): shape for scope in scopes for name, shape in _declared(scope)}
    stored = {scope.id(tensor.name): list(tensor.dims) for scope in scopes for tensor in scope.graph.initializer}
    told = False
    for scope in scopes:
        for node in scope.graph.node:
            data_is_here = len(node.input) > 1 and scope.owner(node.input[0]) is scope
            if not data_is_here or node.domain not in ONNX_DOMAINS:
                continue  # what a branch says of values around it holds only where it runs
            data = shapes.get(scope.id(node.input[0]))
            if data is None:
                continue
            parameter = scope.id(node.input[1])
            dims = stored.get(parameter, _sizes(shapes.get(parameter)))
            axis, size = _channels(node, dims)
            if size and -len(data.dim) <= axis < len(data.dim) and not data.dim[axis].HasField("dim_value"):
                data.dim[axis].dim_value = size
                told = True
    return told


def _channels(node: NodeProto, dims: Dims) -> tuple[int, int]:
    """The axis of a node's data on which its channels are, and how many its parameter, of these sizes, asks for."""
    if node.op_type == "BatchNormalization" and len(dims) == 1:
        return 1, dims[0]
    if node.op_type == "Conv" and len(dims) > MATRIX:
        return 1, dims[1] * _integer(node, "group", 1)
    if node.op_type == "ConvTranspose" and len(dims) > MATRIX:
        return 1, dims[0]
    if node.op_type == "MatMul" and len(dims) == MATRIX:
        return -1, dims[0]
    if node.op_type == "Gemm" and len(dims) == MATRIX:
        return 0 if _integer(node, "transA", 0) else 1, dims[1 if _integer(node, "transB", 0) else 0]
    return 0, 0


def _integer(node: NodeProto, name: str, default: int) -> int:
    return next((item.i for item in node.attribute if item.name == name), default)


def _declared(scope: Scope) -> Iterator[tuple[str, TensorShapeProto]]:
    """The names of one graph whose rank is known, and their shapes, to be written to."""
    for value in (*scope.graph.input, *scope.graph.value_info, *scope.graph.output):
        if value.type.tensor_type.HasField("shape"):
            yield value.name, value.type.tensor_type.shape


def _sizes(shape: TensorShapeProto | None) -> Dims:
    """All sizes of a shape; none where one is unknown."""
    dims = shape.dim if shape is not None else ()
    sizes = [dim.dim_value for dim in dims if dim.HasField("dim_value")]
    return sizes if len(sizes) == len(dims) else []
