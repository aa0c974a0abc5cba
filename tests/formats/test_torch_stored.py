"""Names, order, devices, metadata, memory: what a fold does not touch is written as it was read."""

from __future__ import annotations

import contextlib
import json
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import checkpoint_files as files
import pytest
import torch
from checkpoint_files import IMAGE, TIED_FILES, Net, Tied, written
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn
from torch_modules import assert_close, run, shaken

import bnfold
from bnfold import load_folded

FOLDED = {"bn", "grouped_bn", "dense_bn"}


@pytest.mark.parametrize(
    ("prefix", "inner"), [("_orig_mod.", ""), ("module._orig_mod.", ""), ("_orig_mod.module.", ""), ("", "module.")]
)
def test_what_wrappers_put_into_the_names_stays(tmp_path: Path, prefix: str, inner: str) -> None:
    """``inner`` is a part that was parallel by itself, as in the features of VGG."""
    stored = {
        f"{prefix}{name.replace('grouped.', f'grouped.{inner}')}": tensor for name, tensor in files.state().items()
    }
    path, folded = tmp_path / "wrapped.safetensors", tmp_path / "folded.safetensors"
    save_file(stored, path)
    bnfold.convert(path, folded, factory=Net, inputs=IMAGE)
    assert {f"{prefix}conv.bias", f"{prefix}grouped.{inner}weight"} <= load_file(folded).keys()
    assert_close(run(files.folded_into_fresh(folded), IMAGE), run(files.net(), IMAGE))


def test_order_metadata_and_untouched_tensors_stay(tmp_path: Path) -> None:
    stored = dict(reversed(files.state().items()))
    torch.save(stored, tmp_path / "net.pt")
    save_file(stored, tmp_path / "net.safetensors", metadata={"format": "pt", "author": "é\n", "a": "b"})
    for suffix in (".pt", ".safetensors"):
        bnfold.convert(tmp_path / f"net{suffix}", tmp_path / f"folded{suffix}", factory=Net, inputs=IMAGE)
    after = torch.load(tmp_path / "folded.pt", weights_only=True)
    gone = {name for name in stored if name.rpartition(".")[0] in FOLDED}
    expected = [name for name in stored if name not in gone]
    expected.insert(expected.index("conv.weight") + 1, "conv.bias")
    assert list(after) == expected
    with safe_open(tmp_path / "folded.safetensors", framework="pt") as file:
        assert set(file.keys()) == set(expected)
        metadata = file.metadata()
    assert {name: metadata[name] for name in ("format", "author", "a")} == {"format": "pt", "author": "é\n", "a": "b"}
    assert set(metadata) == {"format", "author", "a", "bnfold"}


def test_every_tensor_in_a_safetensors_file_lies_at_a_multiple_of_its_size(tmp_path: Path) -> None:
    """A gained half-precision bias of odd length must not push what follows out of step."""
    module = shaken(Uneven())
    save_file(dict(module.state_dict()), tmp_path / "uneven.safetensors")
    bnfold.convert(tmp_path / "uneven.safetensors", tmp_path / "folded.safetensors", factory=Uneven, inputs=IMAGE)
    content = (tmp_path / "folded.safetensors").read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    starts = {name: entry["data_offsets"][0] for name, entry in header.items() if name != "__metadata__"}
    assert (8 + length) % 8 == 0
    assert "conv.bias" in starts
    sizes = {"F32": 4, "F16": 2, "I64": 8}
    assert all(start % sizes[header[name]["dtype"]] == 0 for name, start in starts.items())
    folded = load_folded(Uneven(), tmp_path / "folded.safetensors").eval()
    assert_close(run(folded, IMAGE).half(), run(module, IMAGE).half())


class Uneven(nn.Module):
    """Three half-precision channels, then single precision."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 3, 3, bias=False).half(), nn.BatchNorm2d(3).half()
        self.last = nn.Conv2d(3, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(torch.relu(self.bn(self.conv(x.half()))).float())  # type: ignore[no-any-return]


def test_devices_are_written_as_they_were_read(tmp_path: Path) -> None:
    """Saved on a GPU, folded on a machine without one, loaded on the GPU again."""
    with pretended_device("cuda:3"):
        torch.save({"model": files.state(), "mean": torch.ones(3)}, tmp_path / "gpu.pt")
    bnfold.convert(tmp_path / "gpu.pt", tmp_path / "folded.pt", factory=Net, inputs=IMAGE)
    seen: list[str] = []

    def note(storage: Any, location: str) -> Any:
        seen.append(location)
        return storage

    content = torch.load(tmp_path / "folded.pt", map_location=note, weights_only=True)
    assert len(seen) == len(content["model"]) + 1
    assert set(seen) == {"cuda:3"}


@contextlib.contextmanager
def pretended_device(name: str) -> Iterator[None]:
    """Let torch.save believe that everything is on this device."""
    taggers = torch.serialization._package_registry
    mine = (-1, lambda _storage: name, lambda _storage, _location: None)
    taggers.insert(0, mine)
    try:
        yield
    finally:
        taggers.remove(mine)


def test_memory_that_two_names_share_stays_shared(tmp_path: Path) -> None:
    path = written(TIED_FILES, "tied.pt", tmp_path)
    bnfold.convert(path, tmp_path / "folded.pt", factory=Tied)
    state = torch.load(tmp_path / "folded.pt", weights_only=True)
    assert state["a.weight"].data_ptr() == state["b.weight"].data_ptr()


def test_strides_stay(tmp_path: Path) -> None:
    state = {
        name: tensor.to(memory_format=torch.channels_last) if tensor.dim() == 4 else tensor
        for name, tensor in files.state().items()
    }
    torch.save(state, tmp_path / "last.pt")
    bnfold.convert(tmp_path / "last.pt", tmp_path / "folded.pt", factory=Net, inputs=IMAGE, skip="grouped_bn")
    after = torch.load(tmp_path / "folded.pt", weights_only=True)
    assert after["grouped.weight"].stride() == state["grouped.weight"].stride()


def test_a_state_dict_of_an_older_torch_loads_as_torch_loads_it(tmp_path: Path) -> None:
    """Before version 2 of a batch norm there was no num_batches_tracked."""
    old = OrderedDict((name, tensor) for name, tensor in files.state().items() if "tracked" not in name)
    torch.save(old, tmp_path / "old.pt")
    bnfold.convert(tmp_path / "old.pt", tmp_path / "folded.pt", factory=Net, inputs=IMAGE)
    assert_close(run(files.folded_into_fresh(tmp_path / "folded.pt"), IMAGE), run(files.net(), IMAGE))
