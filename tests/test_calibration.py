"""Calibrating as a program would: the trap of batch statistics from end to end, and what holds whatever the network."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from torch import nn

import bnfold
from bnfold.data import load_mnist
from bnfold.runtime.torch_eager import limited_threads
from sample_models import NETWORKS, sigmoid100
from sample_models.files import read, write_batch_statistics
from sample_models.jobs import labels_of
from sample_models.training import accuracy

SIGMOID100 = next(network for network in NETWORKS if network.name == "sigmoid100")
FACTORY = sigmoid100.batch_statistics


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Small networks: several threads of several processes only wait for each other."""
    with limited_threads(1):
        yield


@pytest.fixture(scope="module")
def trapped(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """sigmoid100 as it was trained, with the statistics of each batch: by suffix, a state_dict and an ONNX file."""
    folder = tmp_path_factory.mktemp("trapped")
    files = write_batch_statistics(SIGMOID100, read(SIGMOID100, SIGMOID100.weights()), folder)
    return {file.suffix: file for file in files}


@pytest.mark.mnist
@pytest.mark.parametrize("suffix", [".onnx", ".safetensors"])
def test_ten_thousand_training_images_give_the_accuracy_of_the_population_statistics(
    trapped: dict[str, Path], tmp_path: Path, suffix: str
) -> None:
    source, output, folded = trapped[suffix], tmp_path / f"calibrated{suffix}", tmp_path / f"folded{suffix}"
    options: dict[str, Any] = {} if suffix == ".onnx" else {"factory": FACTORY}
    assert bnfold.convert(source, tmp_path / f"kept{suffix}", **options).folded == 0

    report = bnfold.calibrate(source, "mnist", output, samples=10_000, batch=500, **options).report
    assert report.calibrated == 2
    assert report.accuracy is not None
    assert report.data is not None
    assert report.data.name == "mnist, training images"

    assert bnfold.convert(output, folded, **options).folded == 2
    verified = bnfold.verify(output, folded, data="mnist", batch=500, **options)
    assert verified.passed
    assert verified.accuracy is not None
    test = load_mnist("test")
    population = accuracy(read(SIGMOID100, SIGMOID100.weights()), test.x, labels_of(test))
    assert abs(verified.accuracy.folded_accuracy - population) <= 0.005


@pytest.mark.mnist
@pytest.mark.parametrize("suffix", [".onnx", ".safetensors"])
def test_verify_shows_that_one_by_one_every_image_is_of_one_class(trapped: dict[str, Path], suffix: str) -> None:
    options: dict[str, Any] = {} if suffix == ".onnx" else {"factory": FACTORY}
    report = bnfold.verify(trapped[suffix], trapped[suffix], data="mnist", samples=200, **options)
    assert [item.model for item in report.batch_dependence] == ["original", "folded"]
    for item in report.batch_dependence:
        assert (item.samples, item.distinct_alone, item.distinct_together) == (100, 1, 10)
        assert item.agreeing is not None
        assert item.agreeing < 20
    assert any("bnfold calibrate MODEL --data DATA -o OUT" in warning for warning in report.warnings)


@pytest.mark.mnist
def test_verify_finds_no_trap_where_there_is_none() -> None:
    assert bnfold.verify(SIGMOID100.onnx(), SIGMOID100.onnx(), data="mnist", samples=200).batch_dependence == ()


LEFT_OUT = {"training": (15, ["y", "", ""], 1), "a version before training_mode": (9, ["y", "", "", "", ""], 0)}


@pytest.mark.parametrize(("opset", "outputs", "training"), LEFT_OUT.values(), ids=LEFT_OUT)
def test_an_output_without_a_name_which_crashes_onnxruntime_is_verified_in_the_reference(
    tmp_path: Path, opset: int, outputs: list[str], training: int
) -> None:
    attributes: dict[str, Any] = {"training_mode": 1} if training else {}
    node = helper.make_node("BatchNormalization", ["x", *"gbmv"], outputs, **attributes)
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3])],
        [
            numpy_helper.from_array(np.full(3, value, np.float32), name)
            for name, value in {"g": 2, "b": 1, "m": 0, "v": 4}.items()
        ],
    )
    source = tmp_path / "net.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8), source)

    report = bnfold.verify(source, source)

    assert report.as_written.runtime == "onnx.reference"
    assert len(report.batch_dependence) == 2 * training
    with pytest.raises(bnfold.BnfoldError, match="onnxruntime crashes on the batch norm 'y'"):
        bnfold.bench(source, source)
    x = np.random.default_rng(0).normal(size=(300, 3)).astype(np.float32)
    assert bnfold.calibrate(source, x, tmp_path / "out.onnx", refresh=True).report.calibrated == 1
    assert bnfold.verify(tmp_path / "out.onnx", tmp_path / "out.onnx").batch_dependence == ()


@pytest.mark.mnist
def test_a_trained_networks_own_statistics_hardly_move() -> None:
    report = bnfold.calibrate(SIGMOID100.onnx(), "mnist", refresh=True, samples=10_000, batch=500).report
    assert [item.action for item in report.batch_norms] == ["refreshed"] * 2
    assert max(item.mean_moved or 0 for item in report.batch_norms) <= 0.2


class Branching(nn.Module):
    """Convolutions with batch norms in a row, and one beside them."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.a_bn = nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4, momentum=None)
        self.b, self.b_bn = nn.Conv2d(2, 4, 3, bias=False), nn.BatchNorm2d(4, momentum=None)
        self.c, self.c_bn = nn.Linear(4, 3), nn.BatchNorm1d(3, momentum=None)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        joined = torch.relu(self.a_bn(self.a(x))) + torch.tanh(self.b_bn(self.b(x)))
        return self.c_bn(self.c(joined.mean((2, 3))))  # type: ignore[no-any-return]


@settings(max_examples=4)
@given(seed=st.integers(0, 2**32 - 1))
def test_statistics_that_training_gathered_hardly_move_on_the_data_it_saw(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    module = Branching().train()
    for parameter in module.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator)
    x = torch.randn(640, 2, 6, 6, generator=generator) * 2 + 1
    with torch.no_grad():
        for part in x.reshape(10, 64, 2, 6, 6):
            module(part)  # momentum=None: the mean of all batches' statistics
    report = bnfold.calibrate(module, x.numpy(), inputs=x[:2], refresh=True).report
    assert {item.name: item.step for item in report.batch_norms} == {"a_bn": 1, "b_bn": 1, "c_bn": 2}
    assert max(item.mean_moved or 0 for item in report.batch_norms) <= 0.2


def test_memory_does_not_grow_with_the_number_of_samples() -> None:
    module = nn.Sequential(nn.Linear(64, 64), nn.BatchNorm1d(64, track_running_stats=False))
    x = np.random.default_rng(0).normal(size=(20_000, 64)).astype(np.float32)

    def peak_bytes(samples: int) -> int:
        tracemalloc.start()
        bnfold.calibrate(module, x, samples=samples)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return peak

    peak_bytes(64)  # what is imported on first use is no part of it
    assert peak_bytes(20_000) < 1.5 * peak_bytes(1_000)


def test_what_is_in_memory_is_not_written() -> None:
    module = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
    with pytest.raises(bnfold.BnfoldError, match="there is no file to write a model in memory like"):
        bnfold.calibrate(module, np.ones((9, 4), np.float32), "out.pt")


def test_progress_counts_the_samples_of_each_pass(trapped: dict[str, Path]) -> None:
    x = np.random.default_rng(0).uniform(size=(70, 1, 28, 28)).astype(np.float32)
    told: dict[str, list[tuple[int, int]]] = {}

    def progress(label: str, done: int, total: int) -> None:
        told.setdefault(label, []).append((done, total))

    bnfold.calibrate(trapped[".onnx"], (x, np.arange(70) % 10), progress=progress)
    assert list(told) == ["accuracy before", "pass 1 of 2", "pass 2 of 2", "accuracy after"]
    assert all(steps == [(32, 70), (64, 70), (70, 70)] for steps in told.values())


def test_samples_and_labels_may_be_given_as_arrays() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3, track_running_stats=False))
    x = np.random.default_rng(0).normal(size=(300, 4)).astype(np.float32)
    labels = np.arange(300) % 3
    report = bnfold.calibrate(module, (x, labels)).report
    assert report.source is None
    assert report.accuracy is not None
    assert report.accuracy.samples == 300


def test_a_loss_of_accuracy_is_warned_of() -> None:
    report = bnfold.calibrate(SIGMOID100.onnx(), *_ones_and_zeros(), refresh=True).report
    assert report.accuracy is not None
    assert report.warnings[-1].startswith("accuracy fell from ")


def _ones_and_zeros() -> tuple[tuple[Any, Any]]:
    """Pictures of nothing, each with the class that sigmoid100 sees in it."""
    x = np.random.default_rng(0).uniform(size=(300, 1, 28, 28)).astype(np.float32)
    with torch.inference_mode():
        labels = read(SIGMOID100, SIGMOID100.weights()).eval()(torch.from_numpy(x)).argmax(1).numpy()
    return ((x, labels),)


def test_a_model_that_does_not_run_before_is_calibrated_without_that_accuracy() -> None:
    module = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3, track_running_stats=False))
    x = np.random.default_rng(0).normal(size=(65, 4)).astype(np.float32)  # the last batch has one sample
    report = bnfold.calibrate(module, (x, np.arange(65) % 3)).report
    assert report.accuracy is not None
    assert report.accuracy.before is None
    assert report.accuracy.after is not None
    assert "Expected more than 1 value per channel" in report.warnings[0]


NO_SAMPLES: dict[str, tuple[Any, str]] = {
    "needs gradients": (torch.ones(9, 4, requires_grad=True), "the samples are no array"),
    "text": (np.array(["a", "b"]), "which is no number"),
    "a number": (5, "no samples"),
    "three arrays": ((np.ones((9, 4)), np.ones(9, int), 3), "samples, or a pair of samples and labels"),
}


@pytest.mark.parametrize(("data", "why"), NO_SAMPLES.values(), ids=NO_SAMPLES)
def test_what_holds_no_samples_is_refused(data: Any, why: str) -> None:
    with pytest.raises(bnfold.BnfoldError, match=why):
        bnfold.calibrate(nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3, track_running_stats=False)), data)


@pytest.mark.parametrize(
    "labels", [np.ones(8), np.zeros((9, 1), int), np.zeros(8, int)], ids=["floats", "columns", "too few"]
)
def test_labels_that_are_none_are_refused(labels: Any) -> None:
    module = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3, track_running_stats=False))
    with pytest.raises(bnfold.BnfoldError, match="cannot read samples: `y`"):
        bnfold.calibrate(module, (np.ones((9, 4), np.float32), labels))


# Interrupted

SLOW = """
import sys, time
from bnfold.check import population
add = population.PopulationTally.add
def slowly(self, batch):
    sys.stderr.write("at work\\n")
    sys.stderr.flush()
    time.sleep(0.1)
    add(self, batch)
population.PopulationTally.add = slowly
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
from bnfold.cli import main
main()
"""


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
@pytest.mark.parametrize(
    ("number", "code"), [pytest.param(signal.SIGINT, 130, id="SIGINT"), pytest.param(signal.SIGTERM, 143, id="SIGTERM")]
)
def test_an_interrupted_run_leaves_nothing_behind(
    trapped: dict[str, Path], tmp_path: Path, number: int, code: int
) -> None:
    np.savez(tmp_path / "data.npz", x=np.zeros((30_000, 1, 28, 28), np.float32))
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir() if path != scratch}
    words = ["calibrate", str(trapped[".onnx"]), "--data", str(tmp_path / "data.npz"), "-o", str(tmp_path / "out.onnx")]
    environment = os.environ | {"TMPDIR": str(scratch), "PYTHONPATH": str(Path(bnfold.__file__).parent.parent)}
    command = [sys.executable, "-c", SLOW, *words]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:  # noqa: S603 - ours
        assert process.stderr is not None
        assert process.stderr.readline() == "at work\n"
        process.send_signal(number)
        process.stderr.read()
    assert process.returncode == code
    assert list(scratch.glob("bnfold*")) == []
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir() if path != scratch} == before
