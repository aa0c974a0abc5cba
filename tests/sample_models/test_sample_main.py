from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

import bnfold.data
from bnfold.data import DataSet
from sample_models.__main__ import main
from sample_models.figures import Figure, Figures

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def _noise(monkeypatch: pytest.MonkeyPatch) -> None:
    """MNIST's place is taken by few random images, more than are set aside for validation."""

    def load(split: str, _directory: object) -> DataSet:
        random = np.random.default_rng(len(split))
        count = 5_064 if split == "train" else 100
        images = random.integers(0, 256, (count, 28, 28), np.uint8)
        return DataSet(name="noise", x=images, y=random.integers(0, 10, count), origin="generated", images=True)

    monkeypatch.setattr(bnfold.data, "load_mnist", load)


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param([], id="no-command"),
        pytest.param(["train", "vgg"], id="unknown-network"),
        pytest.param(["reproduce", "smallcnn"], id="nothing-published"),
        pytest.param(["train", "smallcnn", "--epochs", "0"], id="no-epochs"),
    ],
)
def test_wrong_usage_exits_with_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)

    assert caught.value.code == 2
    assert "usage:" in capsys.readouterr().err


def test_missing_mnist_exits_with_7_and_no_traceback(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["train", "smallcnn", "--data", str(tmp_path), "--out", str(tmp_path / "out")])

    assert code == 7
    assert "were not found" in capsys.readouterr().err


def test_ctrl_c_ends_with_130_and_no_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(bnfold.data, "load_mnist", interrupted)

    assert main(["train", "fcnet", "--out", str(tmp_path)]) == 130
    assert capsys.readouterr().err == "\ninterrupted\n"


def test_export_of_an_untrained_network_says_how_to_train_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = main(["export", "tinycnn", "--out", str(tmp_path)])

    assert code == 3
    assert "python -m sample_models train tinycnn" in capsys.readouterr().err


@pytest.mark.usefixtures("_noise")
def test_training_prints_its_epochs_and_the_test_accuracy_and_writes_both_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = main(["train", "smallcnn", "--epochs", "1", "--out", str(tmp_path)])

    assert code == 0
    epoch, test, *wrote = capsys.readouterr().out.splitlines()
    assert epoch.startswith("epoch  1 of 1  learning rate 0.004   loss ")
    assert test.startswith("test accuracy 0.")
    assert [line.split(",")[0] for line in wrote] == [
        f"wrote {tmp_path / 'smallcnn.safetensors'}",
        f"wrote {tmp_path / 'smallcnn.onnx'}",
    ]
    assert (tmp_path / "smallcnn.onnx").is_file()


@pytest.mark.usefixtures("_noise")
def test_reproduce_trains_what_is_not_trained_yet_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    figures = Figures("the table", (Figure("accuracy", "1", "2"),))
    monkeypatch.setattr("sample_models.tinycnn.reproduce", lambda *_: figures)
    arguments = ["reproduce", "tinycnn", "--epochs", "1", "--out", str(tmp_path)]

    assert main(arguments) == 0
    first = capsys.readouterr()
    assert main(arguments) == 0
    second = capsys.readouterr()

    assert "training it" in first.err
    assert first.out.endswith(f"{figures}\n")
    assert second.out == f"{figures}\n"
    assert Figures.from_json((tmp_path / "tinycnn.figures.json").read_text(encoding="utf-8")) == figures


def test_export_writes_the_shipped_weights_as_onnx(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", "smallcnn", "--out", str(tmp_path)]) == 0

    assert f"wrote {tmp_path / 'smallcnn.onnx'}" in capsys.readouterr().out


def test_batch_statistics_of_a_network_without_that_form_exit_with_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", "smallcnn", "--batch-statistics", "--out", str(tmp_path)]) == 2

    assert "the networks that have one: sigmoid100" in capsys.readouterr().err


def test_batch_statistics_are_exported_under_a_name_of_their_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", "sigmoid100", "--batch-statistics", "--out", str(tmp_path)]) == 0

    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["sigmoid100-batch-statistics.onnx", "sigmoid100-batch-statistics.safetensors"]
    assert f"wrote {tmp_path / names[0]}" in capsys.readouterr().out
