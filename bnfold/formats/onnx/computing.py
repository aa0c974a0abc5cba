"""Small computations on constants, as exporters write them: run by onnx's own reference implementation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, OperatorSetIdProto, helper

Array = NDArray[Any]

COMPUTABLE = frozenset(
    (
        *("Identity", "Cast", "CastLike", "Shape", "ConstantOfShape", "Expand"),
        *("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Concat", "Slice", "Gather"),
        *("Add", "Sub", "Mul", "Div", "Neg", "Sqrt", "Reciprocal", "Pow"),
        *("Abs", "Exp", "Max", "ReduceL2", "ReduceMean", "ReduceSum"),
    )
)
"""The operators that are followed: exporters write weights, weight norm, biases and √(var+ε) with them."""

LIMIT_ELEMENTS = 1 << 28
"""A computed constant may not have more elements: a small file could ask for any amount of memory."""


def compute(node: NodeProto, inputs: Sequence[Array | None], opsets: Sequence[OperatorSetIdProto]) -> Array | None:
    """The first output of ``node``; None where it would be too large, or where the node does not fit its inputs."""
    if _elements(node, inputs) > LIMIT_ELEMENTS:
        return None
    from onnx.reference import ReferenceEvaluator

    feeds = {name: values for name, values in zip(node.input, inputs, strict=True) if name and values is not None}
    declared = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(values.dtype), values.shape)
        for name, values in feeds.items()
    ]
    result = helper.make_empty_tensor_value_info(node.output[0])
    model = helper.make_model(helper.make_graph([node], "constant", declared, [result]), opset_imports=opsets)
    try:
        outputs: Any = ReferenceEvaluator(model).run(None, feeds)
        return np.asarray(outputs[0])
    except Exception:  # noqa: BLE001 - a node that fails here is no constant; the runtime will say what is wrong with it
        return None


def _elements(node: NodeProto, inputs: Sequence[Array | None]) -> int:
    """How many elements the result has, as far as it can be larger than its inputs."""
    given = [values for values in inputs if values is not None]
    try:
        if node.op_type == "ConstantOfShape":
            return math.prod(int(size) for size in given[0])
        if node.op_type == "Expand":
            return math.prod(np.broadcast_shapes(given[0].shape, tuple(int(size) for size in given[1])))
        if node.op_type in {"Add", "Sub", "Mul", "Div", "Pow", "Max"}:
            return math.prod(np.broadcast_shapes(*(values.shape for values in given)))
    except (ValueError, IndexError):  # shapes that do not go together: computing will say so
        return 0
    return sum(values.size for values in given)
