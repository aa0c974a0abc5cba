"""The trained files that ship: each folds completely and verifies, from ONNX and PyTorch, and wrong folds do not."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from torch import nn

import bnfold
from bnfold.data import load_mnist
from sample_models import NETWORKS, Network
from sample_models.files import exported, read
from sample_models.manifest import FILE, manifest

BY_NAME = {network.name: network for network in NETWORKS}
BATCH_NORMS = {"smallcnn": 5, "fcnet": 5, "threelayer": 2, "dense32": 2, "sigmoid100": 2}
"""smallcnn stands in for tinycnn, whose trained file is too large to ship."""

MANIFEST = json.loads(FILE.read_text(encoding="utf-8"))

SHIPPED = [pytest.param(BY_NAME[name], count, id=name) for name, count in BATCH_NORMS.items()]


@dataclass(frozen=True)
class Slip:
    """A folder's mistake: the ε it computes with, for the network's own; ``rtol`` where the default lets it pass."""

    network: str
    what: str
    epsilon: Callable[[float], float]
    rtol: float | None = None


def forgotten(_epsilon: float) -> float:
    return 0.0


def keras_taken_for_pytorch(epsilon: float) -> float:
    return 1e-5 if epsilon == pytest.approx(1e-3) else epsilon


# dense32's variances are 47 and more, so that an ε of 1e-3 changes its output by 8e-6: less than the default tolerance
# of 1e-5, and 16 times what a correct fold does. All of MNIST's samples do not raise it; a tighter tolerance tells.
TIGHT = 2e-6
SLIPS = [
    Slip("smallcnn", "forgotten", forgotten),
    Slip("fcnet", "forgotten", forgotten),
    Slip("dense32", "forgotten", forgotten, TIGHT),
    Slip("sigmoid100", "forgotten", forgotten),
    Slip("smallcnn", "1e-5 for 1e-3", keras_taken_for_pytorch),
    Slip("dense32", "1e-5 for 1e-3", keras_taken_for_pytorch, TIGHT),
    Slip("sigmoid100", "1e-5 for 1e-3", keras_taken_for_pytorch),
]


def with_epsilon(model: onnx.ModelProto, replaced: Callable[[float], float]) -> onnx.ModelProto:
    """``model`` with another ε in every BN, in place: folding it is the mistake."""
    for node in model.graph.node:
        if node.op_type == "BatchNormalization":
            (epsilon,) = (attribute for attribute in node.attribute if attribute.name == "epsilon")
            epsilon.CopyFrom(helper.make_attribute("epsilon", replaced(epsilon.f)))
    return model


def beginnings(network: Network) -> dict[str, tuple[Path, str | None]]:
    """By suffix, the trained network's file, and the factory of its architecture where the file needs one."""
    return {".onnx": (network.onnx(), None), ".safetensors": (network.weights(), network.factory)}


def fold_in_onnx(network: Network, slip: Slip, folder: Path) -> Path:
    path = folder / "wrong.onnx"
    onnx.save(bnfold.fold(with_epsilon(onnx.load(network.onnx()), slip.epsilon)).model, path)
    return path


def fold_in_pytorch(network: Network, slip: Slip, folder: Path) -> Path:
    """The checkpoint that the same mistake makes of a state_dict."""

    def architecture() -> nn.Module:
        module = network.build()
        for part in module.modules():
            if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d):
                part.eps = slip.epsilon(part.eps)
        return module

    path = folder / "wrong.safetensors"
    bnfold.convert(network.weights(), path, factory=architecture)
    return path


@pytest.mark.parametrize("network", [BY_NAME[name] for name in BATCH_NORMS], ids=BATCH_NORMS)
def test_files_are_small_and_as_the_manifest_says(network: Network) -> None:
    files = {path.name: path.read_bytes() for path in (network.onnx(), network.weights())}

    assert MANIFEST[network.name]["files"] == {
        name: {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()} for name, content in files.items()
    }
    assert sum(map(len, files.values())) <= 2_500_000


def test_all_files_together_are_small() -> None:
    assert sum(file["bytes"] for row in MANIFEST.values() for file in row["files"].values()) <= 6_000_000


@pytest.mark.parametrize(("network", "count"), SHIPPED)
def test_onnx_is_the_export_of_the_weights(network: Network, count: int) -> None:
    ours, theirs = onnx.load(network.onnx()).graph, exported(network, read(network, network.weights())).graph
    operators = [node.op_type for node in ours.node]

    assert operators == [node.op_type for node in theirs.node]
    assert operators.count("BatchNormalization") == count
    for mine, other in zip(ours.initializer, theirs.initializer, strict=True):
        np.testing.assert_array_equal(numpy_helper.to_array(mine), numpy_helper.to_array(other), err_msg=mine.name)


@pytest.mark.mnist
def test_accuracy_is_as_the_manifest_says() -> None:
    found = json.loads(manifest(load_mnist()))

    assert list(found) == list(MANIFEST) == list(BATCH_NORMS)
    for name, row in found.items():
        assert row["test_accuracy"] == pytest.approx(MANIFEST[name]["test_accuracy"], abs=2e-4)
        assert row["trained"] == MANIFEST[name]["trained"]


@pytest.mark.mnist
@pytest.mark.parametrize("suffix", [".onnx", ".safetensors"])
@pytest.mark.parametrize(("network", "count"), SHIPPED)
def test_network_folds_completely_and_no_prediction_flips(
    network: Network, count: int, suffix: str, tmp_path: Path
) -> None:
    original, factory = beginnings(network)[suffix]
    folded = tmp_path / f"folded{original.suffix}"

    converted = bnfold.convert(original, folded, factory=factory)
    verified = bnfold.verify(original, folded, factory=factory, data="mnist", batch=1000)

    assert (converted.found, converted.folded) == (count, count)
    assert verified.passed
    assert verified.accuracy is not None
    assert (verified.accuracy.samples, verified.accuracy.flips) == (10_000, 0)


@pytest.mark.parametrize("fold", [fold_in_onnx, fold_in_pytorch])
@pytest.mark.parametrize("slip", SLIPS, ids=[f"{slip.network}, {slip.what}" for slip in SLIPS])
def test_fold_with_a_wrong_epsilon_fails_to_verify(
    slip: Slip, fold: Callable[[Network, Slip, Path], Path], tmp_path: Path
) -> None:
    network = BY_NAME[slip.network]
    wrong = fold(network, slip, tmp_path)
    original, factory = beginnings(network)[wrong.suffix]

    report = bnfold.verify(original, wrong, factory=factory, rtol=slip.rtol)

    assert not report.passed


@pytest.mark.parametrize("fold", [fold_in_onnx, fold_in_pytorch])
def test_right_fold_passes_the_tight_tolerance_too(fold: Callable[[Network, Slip, Path], Path], tmp_path: Path) -> None:
    network = BY_NAME["dense32"]
    right = fold(network, Slip("dense32", "right", lambda epsilon: epsilon), tmp_path)
    original, factory = beginnings(network)[right.suffix]

    assert bnfold.verify(original, right, factory=factory, rtol=TIGHT).passed
