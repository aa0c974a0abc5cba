"""External data through the command line: below the model's folder it is read, anywhere else it is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from cli_fixtures import CommandLine
from onnx_graphs import BN, assert_same_network, model, parameters, weight

TENSORS = {"w": weight(4, 3, 3, 3), "k": weight(4), **parameters(4)}


def saved(folder: Path, location: str = "data/weights.bin") -> Path:
    """A model whose larger tensors lie in a file of their own, in a folder below."""
    proto = model(f"c = Conv(x, w, k) y = BatchNormalization(c, {BN})", TENSORS)
    path = folder / "model.onnx"
    (folder / "data").mkdir()
    onnx.save(proto, path, save_as_external_data=True, location="data/weights.bin", size_threshold=0)
    relocate(path, location)
    return path


def relocate(path: Path, location: str) -> None:
    proto = onnx.load(path, load_external_data=False)
    for tensor in proto.graph.initializer:
        next(entry for entry in tensor.external_data if entry.key == "location").value = location
    path.write_bytes(proto.SerializeToString())


def test_data_below_the_folder_is_read(bnfold: CommandLine, tmp_path: Path) -> None:
    path = saved(tmp_path)
    outcome = bnfold("convert", path.name, "--verify", "--format", "json")
    assert outcome.code == 0
    report = json.loads(outcome.out)
    assert report["folded"] == 1
    assert report["verification"]["passed"]
    assert [Path(item["path"]).name for item in report["source"]["external"]] == ["weights.bin"]
    assert_same_network(onnx.load(path), onnx.load(tmp_path / "model.folded.onnx"))


@pytest.mark.parametrize(
    "location",
    [
        "../secret.bin",
        "data/../../secret.bin",
        "/etc/hostname",
        "C:\\secret.bin",
        "\\\\host\\share\\secret.bin",
        "data\\..\\..\\secret.bin",
        "",
        "link.bin",
        "linked/secret.bin",
    ],
)
@pytest.mark.parametrize("command", ["inspect", "convert"])
def test_data_outside_the_folder_is_exit_4(bnfold: CommandLine, tmp_path: Path, location: str, command: str) -> None:
    home = tmp_path / "home"
    home.mkdir()
    saved(home, location)
    (tmp_path / "secret.bin").write_bytes(np.zeros(1000, np.float32).tobytes())
    (home / "link.bin").symlink_to(tmp_path / "secret.bin")
    (home / "linked").symlink_to(tmp_path)
    outcome = bnfold(command, "home/model.onnx")
    assert outcome.code == 4
    assert "outside the model's folder" in outcome.err
    assert len(outcome.err.splitlines()) == 3
    assert not (home / "model.folded.onnx").exists()


def test_a_link_that_stays_below_the_folder_is_followed(bnfold: CommandLine, tmp_path: Path) -> None:
    saved(tmp_path, "link.bin")
    (tmp_path / "link.bin").symlink_to(tmp_path / "data" / "weights.bin")
    assert bnfold("inspect", "model.onnx").code == 0


def test_data_that_are_cut_short_or_missing_are_exit_3(bnfold: CommandLine, tmp_path: Path) -> None:
    saved(tmp_path)
    data = tmp_path / "data" / "weights.bin"
    data.write_bytes(data.read_bytes()[:-4])
    cut = bnfold("inspect", "model.onnx")
    assert cut.code == 3
    assert "cut short" in cut.err
    data.unlink()
    missing = bnfold("inspect", "model.onnx")
    assert missing.code == 3
    assert "weights.bin" in missing.err
