from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper
from safetensors.torch import load_file
from torch import nn

import bnfold
from bnfold.data import load_mnist
from sample_models import NETWORKS, sigmoid100
from sample_models.files import export, in_training_mode, read, write_batch_statistics
from sample_models.jobs import Phase, Recipe, Solver, labels_of
from sample_models.training import pixels

SIGMOID100 = next(network for network in NETWORKS if network.name == "sigmoid100")
BATCH_NORMS = {"first_bn": 100, "second_bn": 100}


def session(model: bytes) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def test_network_is_the_published_one() -> None:
    module = sigmoid100.sigmoid100()
    shapes = {name: tuple(parameter.shape) for name, parameter in module.named_parameters()}
    batch_norms = [part for part in module if isinstance(part, nn.BatchNorm1d)]

    assert shapes == {
        "first.weight": (100, 784),
        "first_bn.weight": (100,),
        "first_bn.bias": (100,),
        "second.weight": (100, 100),
        "second_bn.weight": (100,),
        "second_bn.bias": (100,),
        "logits.weight": (10, 100),
        "logits.bias": (10,),
    }
    assert [(part.eps, part.momentum) for part in batch_norms] == [(1e-3, 0.001)] * 2
    assert torch.std(module.get_parameter("first.weight")).item() == pytest.approx(1, abs=0.01)


def test_recipe_is_the_published_one() -> None:
    recipe = sigmoid100.RECIPE
    steps = sum(len(recipe.batches(np.arange(55_000))) for _ in recipe.learning_rates)

    assert steps == 40_000
    assert recipe == Recipe(phases=(Phase(80, 0.01 * 60),), batch=60, draws=30_000, solver=Solver.GRADIENT_DESCENT)


def test_network_beside_it_has_biases_in_the_bns_stead() -> None:
    bare = sigmoid100.without_batch_norm().state_dict()

    assert set(bare) == {f"{layer}.{key}" for layer in ("first", "second", "logits") for key in ("weight", "bias")}


def test_training_mode_export_is_valid_and_its_bns_begin_with_the_identity() -> None:
    model = in_training_mode(export(read(SIGMOID100, SIGMOID100.weights())))
    onnx.checker.check_model(model, full_check=True)
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    batch_norms = [node for node in model.graph.node if node.op_type == "BatchNormalization"]

    assert [len(node.output) for node in batch_norms] == [3, 3]
    for node, channels in zip(batch_norms, BATCH_NORMS.values(), strict=True):
        np.testing.assert_array_equal(constants[node.input[3]], np.zeros(channels))
        np.testing.assert_array_equal(constants[node.input[4]], np.ones(channels))


def test_batch_statistics_in_onnx_and_pytorch_are_one_network(tmp_path: Path) -> None:
    weights, model = write_batch_statistics(SIGMOID100, read(SIGMOID100, SIGMOID100.weights()), tmp_path)
    module = sigmoid100.batch_statistics().eval()
    module.load_state_dict(load_file(weights))
    images = torch.rand(60, 1, 28, 28)

    (logits,) = session(model.read_bytes()).run(["logits"], {"image": images.numpy()})

    with torch.inference_mode():
        torch.testing.assert_close(torch.from_numpy(logits), module(images), rtol=1e-4, atol=1e-4)


def test_bns_with_batch_statistics_stay(tmp_path: Path) -> None:
    weights, model = write_batch_statistics(SIGMOID100, read(SIGMOID100, SIGMOID100.weights()), tmp_path)

    in_onnx = bnfold.inspect(model)
    in_pytorch = bnfold.inspect(weights, factory=sigmoid100.batch_statistics)

    for report, slug in ((in_onnx, "training-mode"), (in_pytorch, "no-running-stats")):
        assert [row.reason.slug for row in report.batch_norms if row.reason] == [slug] * 2


@pytest.mark.mnist
def test_with_batch_statistics_one_image_at_a_time_is_always_the_same_class(tmp_path: Path) -> None:
    _weights, model = write_batch_statistics(SIGMOID100, read(SIGMOID100, SIGMOID100.weights()), tmp_path)
    running = session(model.read_bytes())
    digits = load_mnist()
    images = pixels(digits.x[:100]).numpy()

    alone = {int(running.run(["logits"], {"image": images[i : i + 1]})[0].argmax()) for i in range(100)}
    (together,) = running.run(["logits"], {"image": images})

    assert len(alone) == 1
    assert (together.argmax(1) == labels_of(digits)[:100]).mean() > 0.9
