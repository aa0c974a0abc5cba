"""Models that onnxruntime does not run, and batch norms that onnx's evaluator by itself gets wrong."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from bnfold.runtime import onnx_reference, ort
from bnfold.runtime.session import NoKernelError

X = np.random.default_rng(0).normal(size=(2, 3, 4, 4))
PARAMETERS = {
    name: np.random.default_rng(seed).uniform(0.5, 2, 3)
    for seed, name in enumerate(("scale", "bias", "mean", "variance"))
}


def batch_norm(opset: int, ir_version: int = 8) -> ModelProto:
    graph = helper.make_graph(
        [helper.make_node("BatchNormalization", ["x", *PARAMETERS], ["y"], epsilon=1e-3)],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.DOUBLE, X.shape)],
        [helper.make_tensor_value_info("y", TensorProto.DOUBLE, X.shape)],
        [numpy_helper.from_array(values, name) for name, values in PARAMETERS.items()],
    )
    return helper.make_model(graph, ir_version=ir_version, opset_imports=[helper.make_opsetid("", opset)])


@pytest.mark.parametrize("opset", [7, 9, 11, 13, 14, 15])
def test_the_reference_normalises_with_the_running_statistics(opset: int) -> None:
    scale, bias, mean, variance = (values.reshape(1, 3, 1, 1) for values in PARAMETERS.values())
    expected = (X - mean) / np.sqrt(variance + np.float32(1e-3)) * scale + bias
    session = onnx_reference.open_session(batch_norm(opset).SerializeToString())
    assert np.allclose(session.run({"x": X})["y"], expected, rtol=1e-12)


@pytest.mark.parametrize(("opset", "ir_version"), [(1000, 8), (14, 1000)], ids=["opset", "IR version"])
def test_a_version_that_is_newer_than_onnxruntime_is_for_the_reference(opset: int, ir_version: int) -> None:
    with pytest.raises(NoKernelError):
        ort.open_session(batch_norm(opset, ir_version).SerializeToString(), optimise=False)
