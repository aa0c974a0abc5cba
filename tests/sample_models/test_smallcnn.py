from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from bnfold.data import load_mnist
from sample_models import NETWORKS
from sample_models.files import export, read
from sample_models.jobs import labels_of
from sample_models.training import accuracy, pixels

SMALLCNN = next(network for network in NETWORKS if network.name == "smallcnn")
BATCH_NORMS = ["stem_bn", "depthwise_bn", "grouped_bn", "dense_bn", "hidden_bn"]


def shipped() -> nn.Module:
    return read(SMALLCNN, SMALLCNN.weights())


def test_shipped_files_are_small() -> None:
    assert SMALLCNN.weights().stat().st_size < 300_000
    assert SMALLCNN.onnx().stat().st_size < 300_000


def test_shipped_onnx_keeps_every_bn_and_says_how_its_images_are_scaled() -> None:
    model = onnx.load(SMALLCNN.onnx())
    onnx.checker.check_model(model, full_check=True)

    assert [node.op_type for node in model.graph.node].count("BatchNormalization") == len(BATCH_NORMS)
    assert {entry.key: entry.value for entry in model.metadata_props} == {
        "bnfold.input": '{"scale": 255, "mean": 0.0, "std": 1.0}'
    }


def test_shipped_onnx_is_the_export_of_the_shipped_weights() -> None:
    ours, theirs = onnx.load(SMALLCNN.onnx()).graph, export(shipped()).graph

    assert [node.op_type for node in ours.node] == [node.op_type for node in theirs.node]
    for mine, other in zip(ours.initializer, theirs.initializer, strict=True):
        np.testing.assert_array_equal(numpy_helper.to_array(mine), numpy_helper.to_array(other), err_msg=mine.name)


def test_some_channels_have_a_negative_scale() -> None:
    scales = [part.weight for part in shipped().modules() if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d)]

    assert [bool((scale < 0).any()) for scale in scales] == [True] * len(BATCH_NORMS)


@pytest.mark.mnist
def test_shipped_weights_and_onnx_are_one_accurate_network() -> None:
    test = load_mnist()
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(SMALLCNN.onnx(), options, providers=["CPUExecutionProvider"])

    module = shipped()
    (logits,) = session.run(["logits"], {"image": pixels(test.x).numpy()})

    assert accuracy(module, test.x, labels_of(test)) >= 0.985
    assert (logits.argmax(1) == test.y).mean() >= 0.985
    with torch.inference_mode():
        torch.testing.assert_close(torch.from_numpy(logits[:100]), module(pixels(test.x[:100])), rtol=1e-5, atol=1e-4)


@pytest.mark.mnist
@pytest.mark.parametrize("name", BATCH_NORMS)
def test_network_needs_each_of_its_bns(name: str) -> None:
    test, module = load_mnist(), shipped()
    setattr(module, name, nn.Identity())

    assert accuracy(module, test.x[:1000], labels_of(test)[:1000]) < 0.5
