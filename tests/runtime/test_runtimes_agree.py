from __future__ import annotations

import numpy as np
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from bnfold.runtime import onnx_reference, ort, torch_eager


def test_all_runtimes_give_the_same_numbers() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 5)).eval()
    module.load_state_dict({"1.running_mean": torch.randn(4), "1.running_var": torch.rand(4) + 0.5}, strict=False)
    proto = as_onnx(module)
    x = np.random.default_rng(0).standard_normal((3, 1, 8, 8)).astype(np.float32)
    expected = torch_eager.open_session(module, torch.zeros(1, 1, 8, 8)).run({"input": x})["output"]
    for session in (
        ort.open_session(proto, optimise=False),
        ort.open_session(proto, optimise=True, threads=1),
        onnx_reference.open_session(proto),
    ):
        np.testing.assert_allclose(
            session.run({"input": x})["output"], expected, rtol=0, atol=1e-5 * abs(expected).max()
        )


def as_onnx(module: nn.Module) -> bytes:
    nodes = [
        helper.make_node("Conv", ["input", "0.weight", "0.bias"], ["conv"]),
        helper.make_node(
            "BatchNormalization", ["conv", "1.weight", "1.bias", "1.running_mean", "1.running_var"], ["bn"]
        ),
        helper.make_node("Relu", ["bn"], ["relu"]),
        helper.make_node("Flatten", ["relu"], ["flat"]),
        helper.make_node("Gemm", ["flat", "4.weight", "4.bias"], ["output"], transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["n", 1, 8, 8])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, ["n", 5])],
        [numpy_helper.from_array(tensor.numpy(), name) for name, tensor in module.state_dict().items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString())
