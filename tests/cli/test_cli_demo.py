"""The demo on an API of its own; tests/test_wheel.py runs it whole."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import sample_reports as sample
from cli_fixtures import Api, CommandLine

from bnfold.data.digits import FILE
from bnfold.data.mnist import FILES
from bnfold.errors import InputError
from bnfold.files import sample as shipped
from bnfold.files.sample import sample_model

MODEL = sample_model().read_bytes()


@pytest.fixture(autouse=True)
def no_data(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("BNFOLD_MNIST", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path.parent / "cache"))


def commands_in(text: str) -> list[str]:
    return re.findall(r"^\$ (.*)$", text, re.MULTILINE)


# Refusals


@pytest.mark.parametrize("name", ["smallcnn.onnx", "smallcnn.folded.onnx", FILE])
def test_a_file_that_no_demo_wrote_is_not_replaced(api: Api, bnfold: CommandLine, name: str) -> None:
    Path("mine").mkdir()
    (Path("mine") / name).write_bytes(b"mine")
    outcome = bnfold("demo", "--out-dir", "mine")
    assert outcome.code == 6
    assert f"{name} exists already, and no demo wrote it\n  name another folder with --out-dir DIR\n" in outcome.err
    assert [(path.name, path.read_bytes()) for path in Path("mine").iterdir()] == [(name, b"mine")]
    assert api.calls == []


def test_a_folder_that_cannot_be_made_is_exit_code_6(api: Api, bnfold: CommandLine) -> None:
    Path("file").touch()
    assert bnfold("demo", "--out-dir", "file").code == 6
    assert api.calls == []


def test_a_command_that_fails_ends_the_demo_with_its_exit_code(api: Api, bnfold: CommandLine) -> None:
    api.answers["verify"] = sample.FAILED
    outcome = bnfold("demo")
    assert outcome.code == 1
    assert [call[0] for call in api.calls] == ["inspect", "convert", "verify"]
    assert "Your own model" not in outcome.out


def test_an_error_of_a_command_is_told_once(api: Api, bnfold: CommandLine) -> None:
    api.answers["inspect"] = InputError("cannot read it")
    outcome = bnfold("demo", "--debug")
    assert outcome.code == 3
    assert outcome.err.startswith("error: cannot read it\nTraceback")


def test_an_installation_without_the_model_says_so(
    api: Api, bnfold: CommandLine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(shipped, "_PACKAGE", tmp_path / "bnfold")
    outcome = bnfold("demo")
    assert outcome.code == 70
    assert "the sample model smallcnn.onnx is missing from this installation" in outcome.err
    assert api.calls == []


# The whole


def test_each_command_is_shown_and_run_in_the_order_of_the_work(api: Api, bnfold: CommandLine) -> None:
    outcome = bnfold("demo")
    original, folded = Path("bnfold-demo/smallcnn.onnx"), Path("bnfold-demo/smallcnn.folded.onnx")
    assert outcome.code == 0
    assert [call[:2] for call in api.calls] == [
        ("inspect", (original,)),
        ("convert", (original, folded)),
        ("verify", (original, folded)),
        ("bench", (original, folded)),
    ]
    assert commands_in(outcome.out) == [
        f"bnfold inspect {original}",
        f"bnfold convert {original}",
        f"bnfold verify {original} {folded} --data bnfold-demo/{FILE}",
        f"bnfold bench {original} {folded} --batch 1",
    ]
    assert outcome.out.index("$ bnfold bench") < outcome.out.index("Your own model:")


def test_without_mnist_the_digits_are_generated_and_called_so(api: Api, bnfold: CommandLine) -> None:
    outcome = bnfold("demo")
    assert "MNIST was not found" in outcome.out
    assert api.calls[2][2]["data"] == f"bnfold-demo/{FILE}"
    for line in outcome.out.splitlines():
        assert "digits" not in line or "generated" in line
    assert sorted(path.name for path in Path("bnfold-demo").iterdir()) == [FILE, "smallcnn.onnx"]


def test_mnist_is_used_where_it_is_found(
    api: Api, bnfold: CommandLine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for file in FILES["test"]:
        (tmp_path / file.name).touch()
    monkeypatch.setenv("BNFOLD_MNIST", str(tmp_path))
    outcome = bnfold("demo")
    assert api.calls[2][2]["data"] == "mnist"
    assert "generated" not in outcome.out
    assert [path.name for path in Path("bnfold-demo").iterdir()] == ["smallcnn.onnx"]


def test_mnist_without_its_test_images_is_not_found(
    api: Api, bnfold: CommandLine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for file in FILES["train"]:
        (tmp_path / file.name).touch()
    monkeypatch.setenv("BNFOLD_MNIST", str(tmp_path))
    bnfold("demo")
    assert api.calls[2][2]["data"] == f"bnfold-demo/{FILE}"


def test_the_folder_of_a_demo_is_used_again(api: Api, bnfold: CommandLine) -> None:
    for _ in range(2):
        Path("again").mkdir(exist_ok=True)
        assert bnfold("demo", "--out-dir", "again").code == 0
        (Path("again") / "smallcnn.folded.onnx").write_bytes(b"folded by the first")
    assert len(api.calls) == 8
    assert (Path("again") / "smallcnn.onnx").read_bytes() == MODEL


def test_only_the_named_folder_is_written(api: Api, bnfold: CommandLine) -> None:
    bnfold("demo", "--out-dir", "a/b")
    assert len(api.calls) == 4
    assert [str(path) for path in Path().rglob("*") if path.parent != Path("a/b")] == ["a", "a/b"]
