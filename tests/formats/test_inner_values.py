"""``verify --layers``: which inner values are compared, and that they show where a difference begins."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import ModelProto, numpy_helper
from onnx_graphs import BN, model, parameters, weight
from safetensors.torch import load_file, save_file
from torch import nn

import bnfold
from bnfold.formats.onnx.model import OnnxModel
from bnfold.formats.onnx.watching import comparable_values

TENSORS = {"w": weight(4, 3, 3, 3), "k": weight(4, 4, 1, 1), **parameters(4)}
NORM = f"BatchNormalization(%s, {BN})"
COMPARABLE = {
    "a batch norm behind its layer": (f"c = Conv(x, w) n = {NORM % 'c'} y = Relu(n)", ["n", "y"]),
    "what an affine crossed is another value now": (
        f"c = Conv(x, w) p = AveragePool<kernel_shape = [2, 2]>(c) n = {NORM % 'p'} y = Relu(n)",
        ["n", "y"],
    ),
    "a batch norm that went into the layer below": (
        f"r = Relu(x) c = Conv(r, w) h = Sigmoid(c) n = {NORM % 'h'} y = Conv(n, k)",
        ["r", "c"],
    ),
    "no activation": (f"c = Conv(x, w) y = {NORM % 'c'}", []),
}


@pytest.mark.parametrize(("body", "names"), COMPARABLE.values(), ids=COMPARABLE)
def test_what_folding_leaves_as_it_is(body: str, names: list[str]) -> None:
    proto = model(body, TENSORS)
    folded = bnfold.fold(proto)
    assert len(folded.plan.folds) == 1
    assert comparable_values(OnnxModel(proto), OnnxModel(folded.model)) == names


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path, ModelProto]:
    """A model of two layers, and what it is folded to."""
    proto = model(f"c = Conv(x, w) n = {NORM % 'c'} r = Relu(n) d = Conv(r, k) y = Sigmoid(d)", TENSORS)
    onnx.save(proto, tmp_path / "model.onnx")
    bnfold.convert(tmp_path / "model.onnx", tmp_path / "folded.onnx")
    return tmp_path / "model.onnx", tmp_path / "folded.onnx", onnx.load(tmp_path / "folded.onnx")


def test_values_are_compared_in_the_order_of_the_graph(files: tuple[Path, Path, ModelProto]) -> None:
    report = bnfold.verify(*files[:2], layers=True)
    assert [layer.name for layer in report.layers] == ["n", "r", "d", "y"]
    assert all(layer.relative_error < 1e-5 for layer in report.layers)
    assert bnfold.verify(*files[:2]).layers == ()


def test_the_first_that_differs_is_where_the_damage_is(files: tuple[Path, Path, ModelProto]) -> None:
    original, folded, proto = files
    damaged = next(item for item in proto.graph.initializer if item.name == "k")
    damaged.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(damaged) * np.float32(1.1), "k"))
    onnx.save(proto, folded)
    errors = {layer.name: layer.relative_error for layer in bnfold.verify(original, folded, layers=True).layers}
    assert max(errors["n"], errors["r"]) < 1e-5
    assert errors["d"] > 1e-2


def test_without_a_common_value_a_warning_says_so(tmp_path: Path) -> None:
    onnx.save(model(f"c = Conv(x, w) y = {NORM % 'c'}", TENSORS), tmp_path / "model.onnx")
    bnfold.convert(tmp_path / "model.onnx", tmp_path / "folded.onnx")
    report = bnfold.verify(tmp_path / "model.onnx", tmp_path / "folded.onnx", layers=True)
    assert any("--layers compared none" in warning for warning in report.warnings)
    assert report.passed


def twice_used() -> nn.Module:
    """Two layers, and one activation that is called after each."""
    torch.manual_seed(4)
    act = nn.Tanh()
    module = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), act, nn.Linear(5, 4), act)
    parts: list[Any] = list(module)
    nn.init.uniform_(parts[1].running_mean)
    return module.eval()


def test_of_a_checkpoint_the_activations_are_compared_call_by_call(tmp_path: Path) -> None:
    save_file(twice_used().state_dict(), tmp_path / "net.safetensors")
    bnfold.convert(tmp_path / "net.safetensors", tmp_path / "folded.safetensors", factory=twice_used)
    tensors = load_file(tmp_path / "folded.safetensors")
    report = bnfold.verify(
        tmp_path / "net.safetensors", tmp_path / "folded.safetensors", factory=twice_used, layers=True
    )
    assert [layer.name for layer in report.layers] == ["2", "2:2"]
    assert max(layer.relative_error for layer in report.layers) < 1e-5
    assert "1.running_mean" not in tensors
