from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
import sample_reports as sample
from cli_fixtures import CommandLine
from onnx import numpy_helper, parser

from bnfold.errors import DataError


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The keywords that the API is called with; it answers with a report."""
    found: list[dict[str, Any]] = []

    def calibrate(model: Path, **keywords: Any) -> SimpleNamespace:
        found.append({"model": model} | {name: value for name, value in keywords.items() if name != "progress"})
        return SimpleNamespace(report=sample.CALIBRATION)

    monkeypatch.setattr("bnfold.api.calibrate", calibrate, raising=False)
    return found


def test_the_options_reach_the_api(bnfold: CommandLine, calls: list[dict[str, Any]]) -> None:
    words = (
        "calibrate m.onnx --data a.npz -o out.onnx --samples 9 --batch 3 --refresh --force --mean 1 --std 2 --scale 1"
    )
    assert bnfold(*words.split()).code == 0
    assert calls == [
        {
            "model": Path("m.onnx"),
            "data": "a.npz",
            "output": Path("out.onnx"),
            "samples": 9,
            "batch": 3,
            "refresh": True,
            "force": True,
            "mean": 1.0,
            "std": 2.0,
            "scale": 1.0,
            "factory": None,
            "inputs": None,
            "trust_code": False,
            "key": None,
        }
    ]


@pytest.mark.parametrize("missing", ["--data", "-o"])
def test_data_and_output_must_be_given(bnfold: CommandLine, calls: list[dict[str, Any]], missing: str) -> None:
    options = {"--data": "mnist", "-o": "out.onnx"}
    del options[missing]
    outcome = bnfold("calibrate", "m.onnx", *(word for pair in options.items() for word in pair))
    assert outcome.code == 2
    assert "Missing option" in outcome.err
    assert calls == []


def test_a_report_may_not_replace_the_output(bnfold: CommandLine, calls: list[dict[str, Any]]) -> None:
    outcome = bnfold(*["calibrate", "m.onnx", "--data", "mnist", "-o", "out.json", "--report", "out.json"])
    assert outcome.code == 2
    assert calls == []


def model_file(folder: Path) -> str:
    """x (N, 3) → BatchNormalization in training mode → y, as ``net.onnx``."""
    proto = parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 15]> g (float[N,3] x) => (float[N,3] y) '
        "{ y, m2, v2 = BatchNormalization<training_mode = 1>(x, g, b, m, v) }"
    )
    for name, value in zip("gbmv", (1, 0, 0, 1), strict=True):
        proto.graph.initializer.append(numpy_helper.from_array(np.full(3, value, np.float32), name))
    onnx.save(proto, folder / "net.onnx")
    return "net.onnx"


def data_file(folder: Path, rows: int = 400, **arrays: Any) -> str:
    x = np.random.default_rng(0).normal(size=(rows, 3)).astype(np.float32)
    np.savez(folder / "data.npz", **({"x": x} | arrays))
    return "data.npz"


def test_the_last_lines_say_what_was_done_and_written(bnfold: CommandLine, tmp_path: Path) -> None:
    outcome = bnfold("calibrate", model_file(tmp_path), "--data", data_file(tmp_path), "-o", "out.onnx")
    assert outcome.code == 0
    size = (tmp_path / "out.onnx").stat().st_size
    assert outcome.out.splitlines()[-2:] == [
        "found 1 batch norm: 1 calibrated in 1 pass over the data, 0 kept",
        f"wrote out.onnx ({size} B)",
    ]
    assert outcome.err == ""


def test_nothing_to_do_is_said_and_the_output_is_a_copy(bnfold: CommandLine, tmp_path: Path) -> None:
    data = data_file(tmp_path)
    bnfold("calibrate", model_file(tmp_path), "--data", data, "-o", "out.onnx")
    outcome = bnfold("calibrate", "out.onnx", "--data", data, "-o", "again.onnx")
    assert outcome.code == 0
    assert "found 1 batch norm, and all have statistics: nothing to do" in outcome.out
    assert (tmp_path / "again.onnx").read_bytes() == (tmp_path / "out.onnx").read_bytes()


@pytest.mark.parametrize("rows", [1, 40])
def test_too_few_samples_are_warned_of_with_the_number_that_would_do(
    bnfold: CommandLine, tmp_path: Path, rows: int
) -> None:
    outcome = bnfold("calibrate", model_file(tmp_path), "--data", data_file(tmp_path, rows), "-o", "out.onnx")
    assert outcome.code == 0
    assert "too few samples for a stable variance in 3 of 3 channels" in outcome.err
    number = int(outcome.err.partition("; about ")[2].partition(" samples would do")[0])
    assert 200 <= number <= 400


def test_a_channel_without_spread_is_named(bnfold: CommandLine, tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(400, 3)).astype(np.float32)
    x[:, 1] = 0.1
    outcome = bnfold("calibrate", model_file(tmp_path), "--data", data_file(tmp_path, x=x), "-o", "out.onnx")
    assert outcome.code == 0
    assert "warning: y: channel 1 never moved: variance 0\n" in outcome.err


def test_samples_of_some_classes_alone_are_warned_of(bnfold: CommandLine, tmp_path: Path) -> None:
    data = data_file(tmp_path, y=np.arange(400) // 100)
    outcome = bnfold("calibrate", model_file(tmp_path), "--data", data, "-o", "out.onnx", "--samples", "250")
    assert "warning: the first 250 samples hold 3 of 4 classes, and speak for these alone\n" in outcome.err


def test_accuracy_before_and_after_is_shown_where_there_are_labels(bnfold: CommandLine, tmp_path: Path) -> None:
    data = data_file(tmp_path, y=np.arange(400) % 3)
    outcome = bnfold("calibrate", model_file(tmp_path), "--data", data, "-o", "out.onnx")
    line = next(line for line in outcome.out.splitlines() if line.startswith("accuracy"))
    assert line.startswith("accuracy on 400 samples: ")
    assert line.endswith(" after")


MISTAKES = {
    "random data": (
        "net.onnx --data random -o out.onnx",
        2,
        "random inputs have other statistics than a network's own",
    ),
    "no such data": ("net.onnx --data none.npz -o out.onnx", 3, "the file does not exist"),
    "no such set": ("net.onnx --data mnits -o out.onnx", DataError.exit_code, "there is no data set 'mnits'"),
    "another width": ("net.onnx --data wide.npz -o out.onnx", 2, "the samples do not fit input 'x'"),
    "no such model": ("nett.onnx --data data.npz -o out.onnx", 3, "there is no file nett.onnx"),
    "over the model": ("net.onnx --data data.npz -o net.onnx", 6, "is the input, which is never overwritten"),
    "over another file": ("net.onnx --data data.npz -o data.npz", 6, "exists already"),
    "no such folder": ("net.onnx --data data.npz -o no/out.onnx", 6, "there is no folder"),
}


@pytest.mark.parametrize(("words", "code", "message"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_told_in_three_lines_and_nothing_is_written(
    bnfold: CommandLine, tmp_path: Path, words: str, code: int, message: str
) -> None:
    model_file(tmp_path)
    data_file(tmp_path)
    np.savez(tmp_path / "wide.npz", x=np.ones((10, 7), np.float32))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    outcome = bnfold("calibrate", *words.split())
    assert outcome.code == code
    assert message in outcome.err
    assert len(outcome.err.splitlines()) <= 3
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
