"""Safetensors in shards: what an index may say, and that shards stay shards."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import checkpoint_files as files
import pytest
import torch
from checkpoint_files import FACTORY, IMAGE, SHAPE, Net
from cli_fixtures import CommandLine
from safetensors.torch import load_file, save_file
from torch_modules import assert_close, run

import bnfold


def in_shards(folder: Path, base: str = "model") -> Path:
    """The network in two files, as the Hugging Face hub has large ones."""
    stored = files.state()
    names = {name: f"{base}-0000{1 + name.startswith('dense')}-of-00002.safetensors" for name in stored}
    for file in set(names.values()):
        held = {name: tensor for name, tensor in stored.items() if names[name] == file}
        save_file(held, folder / file, metadata={"format": "pt"})
    size = sum(tensor.numel() * tensor.element_size() for tensor in stored.values())
    path = folder / f"{base}.safetensors.index.json"
    path.write_text(json.dumps({"metadata": {"total_size": size}, "weight_map": names}), encoding="utf-8")
    return path


SHARDS = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]


def test_shards_stay_shards(bnfold: CommandLine, tmp_path: Path) -> None:
    path = in_shards(tmp_path)
    options = ["--model", FACTORY, "--input", SHAPE]
    assert bnfold("convert", path.name, *options, "--verify").code == 0
    folded = tmp_path / "model.folded.safetensors.index.json"
    index = json.loads(folded.read_text(encoding="utf-8"))
    renamed = [name.replace("model-", "model.folded-") for name in SHARDS]
    assert sorted(set(index["weight_map"].values())) == renamed
    assert index["weight_map"]["conv.bias"] == renamed[0]
    held = {name: file for file in renamed for name in load_file(tmp_path / file)}
    assert held == index["weight_map"]
    assert "bn.weight" not in held
    tensors = [tensor for file in renamed for tensor in load_file(tmp_path / file).values()]
    assert index["metadata"]["total_size"] == sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    assert_close(run(files.folded_into_fresh(folded), IMAGE), run(files.net(), IMAGE))
    assert bnfold("convert", path.name, *options, "--check").code == 0
    (tmp_path / renamed[1]).write_bytes(b"")
    assert bnfold("convert", path.name, *options, "--check").code == 1


def test_shards_of_which_one_cannot_be_written_are_not_written_at_all(bnfold: CommandLine, tmp_path: Path) -> None:
    path = in_shards(tmp_path)
    (tmp_path / "model.folded-00001-of-00002.safetensors").mkdir()
    before = sorted(tmp_path.iterdir())
    assert bnfold("convert", path.name, "--model", FACTORY, "--input", SHAPE).code == 6
    assert sorted(tmp_path.iterdir()) == before


def test_shards_without_anything_to_fold_are_copied(tmp_path: Path) -> None:
    path, out = in_shards(tmp_path), tmp_path / "out"
    out.mkdir()
    bnfold.convert(path, out / path.name, factory=Net, inputs=IMAGE, skip="*")
    assert {item.name for item in out.iterdir()} == {path.name, *SHARDS}
    assert all(item.read_bytes() == (tmp_path / item.name).read_bytes() for item in out.iterdir())


ELSEWHERE = {
    "above": "../elsewhere.safetensors",
    "absolute": "/elsewhere.safetensors",
    "in a folder": "deeper/model.safetensors",
    "no name": "",
}


@pytest.mark.parametrize("location", ELSEWHERE.values(), ids=ELSEWHERE)
def test_a_shard_in_another_folder_is_refused_for_safety(bnfold: CommandLine, tmp_path: Path, location: str) -> None:
    path = in_shards(tmp_path)
    index = json.loads(path.read_text(encoding="utf-8"))
    index["weight_map"]["conv.weight"] = location
    path.write_text(json.dumps(index), encoding="utf-8")
    assert refused(bnfold, path) == 4


def test_a_shard_that_is_a_link_out_of_the_folder_is_refused_for_safety(bnfold: CommandLine, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    path = in_shards(folder)
    (folder / SHARDS[0]).rename(tmp_path / "first.safetensors")
    (folder / SHARDS[0]).symlink_to(tmp_path / "first.safetensors")
    assert refused(bnfold, path) == 4


INDEXES: dict[str, Callable[[dict[str, Any]], object]] = {
    "a shard that is missing": lambda index: index["weight_map"].update({"conv.weight": "missing.safetensors"}),
    "a tensor in the other shard": lambda index: index["weight_map"].update({"conv.weight": SHARDS[1]}),
    "a tensor that no shard has": lambda index: index["weight_map"].update({"extra": SHARDS[1]}),
    "a tensor that is not named": lambda index: index["weight_map"].pop("conv.weight"),
    "no map": lambda index: index.update(weight_map=[1]),
    "a number for a file": lambda index: index["weight_map"].update({"conv.weight": 1}),
    "metadata that is a list": lambda index: index.update(metadata=[1]),
}


@pytest.mark.parametrize("damage", INDEXES.values(), ids=INDEXES)
def test_an_index_that_does_not_fit_its_shards_is_exit_3(
    bnfold: CommandLine, tmp_path: Path, damage: Callable[[dict[str, Any]], object]
) -> None:
    path = in_shards(tmp_path)
    index = json.loads(path.read_text(encoding="utf-8"))
    damage(index)
    path.write_text(json.dumps(index), encoding="utf-8")
    assert refused(bnfold, path) == 3


@pytest.mark.parametrize("content", ["pickle", "nothing"])
def test_a_shard_that_is_no_safetensors_file_is_exit_3(bnfold: CommandLine, tmp_path: Path, content: str) -> None:
    path = in_shards(tmp_path)
    (tmp_path / SHARDS[0]).unlink()
    if content == "pickle":
        torch.save(files.state(), tmp_path / SHARDS[0])
    else:
        (tmp_path / SHARDS[0]).write_bytes(b"")
    assert refused(bnfold, path) == 3


def refused(bnfold: CommandLine, path: Path) -> int:
    """The exit code of a conversion that writes nothing and says why in three lines."""
    before = sorted(path.parent.rglob("*"))
    outcome = bnfold("convert", str(path), "--model", FACTORY, "--input", SHAPE)
    assert outcome.out == ""
    assert 1 <= len(outcome.err.splitlines()) <= 3
    assert sorted(path.parent.rglob("*")) == before
    return outcome.code
