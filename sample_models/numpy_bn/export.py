"""A network of NumPy layers as ONNX, node by node with ``onnx.helper``: no exporter has touched it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from sample_models.numpy_bn.layers import Affine, BatchNorm, Layer, ReLU

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

    from sample_models.numpy_bn.network import Network

Product = Literal["Gemm", "MatMul"]
"""How a dense layer is written: one Gemm, or a MatMul and an Add."""

_OPSET = 17
_IR_VERSION = 8  # what belongs to opset 17


def to_onnx(network: Network, product: Product) -> ModelProto:
    """Input ``image`` float32 (N, 1, 28, 28), output ``logits`` (N, 10), any N, every BN kept; dropout is not there."""
    from onnx import TensorProto, checker, helper, numpy_helper

    nodes = [helper.make_node("Flatten", ["image"], ["flat"], "flatten", axis=1)]
    constants: dict[str, NDArray[Any]] = {}
    value = "flat"
    for name, layer in network.layers.items():
        nodes += _nodes(layer, name, value, product)
        value = nodes[-1].output[0]
        constants |= {f"{name}.{key}": array.astype(np.float32) for key, array in _constants(layer).items()}
    nodes[-1].output[0] = "logits"
    graph = helper.make_graph(
        nodes,
        "classifier",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 1, 28, 28])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 10])],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR_VERSION)
    checker.check_model(model, full_check=True)
    return model


def _nodes(layer: Layer, name: str, value: str, product: Product) -> list[NodeProto]:
    """The layer as nodes that read ``value``; none where it does nothing in test mode."""
    from onnx import helper

    result, weight, bias = f"{name}.out", f"{name}.weight", f"{name}.bias"
    if isinstance(layer, Affine) and product == "Gemm":
        return [helper.make_node("Gemm", [value, weight, bias], [result], name)]
    if isinstance(layer, Affine):
        between = f"{name}.product"
        return [
            helper.make_node("MatMul", [value, weight], [between], name),
            helper.make_node("Add", [between, bias], [result], f"{name}.add"),
        ]
    if isinstance(layer, BatchNorm):
        inputs = [value, weight, bias, f"{name}.running_mean", f"{name}.running_var"]
        return [helper.make_node("BatchNormalization", inputs, [result], name, epsilon=layer.epsilon)]
    if isinstance(layer, ReLU):
        return [helper.make_node("Relu", [value], [result], name)]
    return []


def _constants(layer: Layer) -> dict[str, NDArray[Any]]:
    """What the layer's nodes read, weights as (inputs, outputs)."""
    if not isinstance(layer, BatchNorm):
        return layer.parameters
    mean, variance = layer.population
    return layer.parameters | {"running_mean": mean, "running_var": variance}
