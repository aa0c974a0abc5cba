from __future__ import annotations

import onnx
import pytest
from torch import nn

from bnfold.data import load_mnist
from sample_models import NETWORKS
from sample_models.files import read
from sample_models.jobs import labels_of
from sample_models.training import accuracy

SMALLCNN = next(network for network in NETWORKS if network.name == "smallcnn")
BATCH_NORMS = ["stem_bn", "depthwise_bn", "grouped_bn", "dense_bn", "hidden_bn"]


def shipped() -> nn.Module:
    return read(SMALLCNN, SMALLCNN.weights())


def test_shipped_onnx_keeps_every_bn_and_says_how_its_images_are_scaled() -> None:
    model = onnx.load(SMALLCNN.onnx())
    onnx.checker.check_model(model, full_check=True)

    assert [node.op_type for node in model.graph.node].count("BatchNormalization") == len(BATCH_NORMS)
    assert {entry.key: entry.value for entry in model.metadata_props} == {
        "bnfold.input": '{"scale": 255, "mean": 0.0, "std": 1.0}'
    }


def test_some_channels_have_a_negative_scale() -> None:
    scales = [part.weight for part in shipped().modules() if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d)]

    assert [bool((scale < 0).any()) for scale in scales] == [True] * len(BATCH_NORMS)


@pytest.mark.mnist
@pytest.mark.parametrize("name", BATCH_NORMS)
def test_network_needs_each_of_its_bns(name: str) -> None:
    test, module = load_mnist(), shipped()
    setattr(module, name, nn.Identity())

    assert accuracy(module, test.x[:1000], labels_of(test)[:1000]) < 0.5
