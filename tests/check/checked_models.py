"""Small things to check: a real conv → BN → ReLU → linear network with its fold, and a session around a function."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from bnfold.check.verify import Pair
from bnfold.runtime import ort
from bnfold.runtime.session import Feeds, TensorSpec

Array = NDArray[Any]
Function = Callable[[Feeds], dict[str, Array]]


@dataclass
class FunctionSession:
    """A session that computes with NumPy, and remembers what it was fed."""

    function: Function
    inputs: tuple[TensorSpec, ...] = (TensorSpec("x", "float32", ("n", 4)),)
    outputs: tuple[TensorSpec, ...] = (TensorSpec("y", "float32", None),)
    label: str = "NumPy"
    fed: list[Feeds] = field(default_factory=list)

    def run(self, feeds: Feeds) -> dict[str, Array]:
        self.fed.append(feeds)
        return self.function(feeds)

    def prepare(self, feeds: Feeds) -> Callable[[], object]:
        return partial(self.function, feeds)


def function_pair(original: Function, folded: Function, **attributes: Any) -> Pair:
    return Pair(FunctionSession(original, **attributes), FunctionSession(folded, **attributes))


@dataclass
class ConvBn:
    """A network's parameters: convolution, batch norm (ε included), linear layer."""

    weight: Array
    bias: Array
    gamma: Array
    beta: Array
    mean: Array
    variance: Array
    linear: Array
    epsilon: float = 1e-3

    def folded_weight(self, dtype: type = np.float32, epsilon: float | None = None) -> tuple[Array, Array]:
        """The convolution's weight and bias with the batch norm in them, rounded once."""
        used = self.epsilon if epsilon is None else epsilon
        scale = self.gamma.astype(np.float64) / np.sqrt(self.variance.astype(np.float64) + used)
        weight = self.weight * scale[:, None, None, None]
        bias = (self.bias.astype(np.float64) - self.mean) * scale + self.beta
        return weight.astype(dtype), bias.astype(dtype)


def conv_bn() -> ConvBn:
    draw = np.random.default_rng(7)
    return ConvBn(
        weight=draw.normal(0, 0.3, (8, 1, 3, 3)).astype(np.float32),
        bias=draw.normal(0, 0.1, 8).astype(np.float32),
        gamma=draw.uniform(0.5, 1.5, 8).astype(np.float32),
        beta=draw.normal(0, 0.1, 8).astype(np.float32),
        mean=draw.normal(0, 0.2, 8).astype(np.float32),
        variance=draw.uniform(0.2, 1.5, 8).astype(np.float32),
        linear=draw.normal(0, 0.3, (8, 10)).astype(np.float32),
    )


def original_model(network: ConvBn, batch: int | str = "n") -> bytes:
    """image (batch, 1, 28, 28) → Conv → BatchNormalization → Relu → global mean → MatMul → scores (batch, 10)."""
    nodes = [
        helper.make_node("Conv", ["image", "weight", "bias"], ["conv"]),
        helper.make_node(
            "BatchNormalization", ["conv", "gamma", "beta", "mean", "variance"], ["features"], epsilon=network.epsilon
        ),
    ]
    parameters = {name: getattr(network, name) for name in ("weight", "bias", "gamma", "beta", "mean", "variance")}
    return _model(nodes, parameters, network.linear, batch)


def folded_model(network: ConvBn, weight: Array, bias: Array, batch: int | str = "n") -> bytes:
    nodes = [helper.make_node("Conv", ["image", "weight", "bias"], ["features"])]
    return _model(nodes, {"weight": weight, "bias": bias}, network.linear, batch)


def ort_pair(original: bytes, folded: bytes, *, optimise: bool = False) -> Pair:
    return Pair(ort.open_session(original, optimise=optimise), ort.open_session(folded, optimise=optimise))


def _model(nodes: Sequence[onnx.NodeProto], parameters: dict[str, Array], linear: Array, batch: int | str) -> bytes:
    tail = [
        helper.make_node("Relu", ["features"], ["positive"]),
        helper.make_node("GlobalAveragePool", ["positive"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("MatMul", ["flat", "linear"], ["scores"]),
    ]
    graph = helper.make_graph(
        [*nodes, *tail],
        "small",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [batch, 1, 28, 28])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [batch, 10])],
        [numpy_helper.from_array(value, name) for name, value in (parameters | {"linear": linear}).items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())
