"""Folding that keeps the architecture: original names, scales of exactly 1, and folders left as they are."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import checkpoint_files as files
import pytest
import torch
from checkpoint_files import FACTORY, IMAGE, SHAPE, Net, written
from cli_fixtures import CommandLine
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from test_torch_shards import in_shards
from torch import nn
from torch_modules import assert_close, run, shaken

import bnfold

KEEP = ["--model", FACTORY, "--input", SHAPE]


def kept(module: nn.Module, folder: Path, x: torch.Tensor = IMAGE, **options: Any) -> tuple[nn.Module, Any]:
    """A module of the same class with the tensors that were written, loaded strictly by torch; and the report."""
    torch.save(module.state_dict(), folder / "net.pt")
    options |= {"factory": lambda: fresh(module), "inputs": x, "keep_architecture": True}
    report = bnfold.convert(folder / "net.pt", folder / "kept.pt", **options)
    loaded = fresh(module)
    before, after = module.state_dict(), torch.load(folder / "kept.pt", weights_only=True)
    assert list(before) == list(after)
    assert [tensor.dtype for tensor in before.values()] == [tensor.dtype for tensor in after.values()]
    loaded.load_state_dict(after)
    return loaded.eval(), report


def fresh(module: nn.Module) -> nn.Module:
    """Another module of the same architecture, with other tensors."""
    made = copy.deepcopy(module)
    with torch.no_grad():
        for tensor in made.state_dict().values():
            tensor.zero_()
    return made


def scales(bn: Any) -> torch.Tensor:
    """What a batch norm multiplies by, as torch computes it: the difference of its outputs for 1 and 0."""
    shiftless = copy.deepcopy(bn)
    shiftless.running_mean.zero_()
    shape = (1, bn.num_features, *[1] * (2 * isinstance(bn, nn.BatchNorm2d)))
    probe = torch.full(shape, 3.7, dtype=bn.running_var.dtype)
    with torch.inference_mode():
        if bn.affine:
            shiftless.bias.zero_()
        return torch.div(shiftless(probe), probe)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16], ids=str)
def test_original_names_a_scale_of_exactly_1_and_the_same_outputs(tmp_path: Path, dtype: torch.dtype) -> None:
    module = files.net().to(dtype)
    loaded, report = kept(module, tmp_path, IMAGE.to(dtype))
    folded = [item.name for item in report.batch_norms if item.verdict == "folded"]
    assert folded == ["bn", "grouped_bn", "dense_bn"]
    for name in folded:
        bn: Any = loaded.get_submodule(name)
        assert torch.equal(scales(bn), torch.ones_like(scales(bn)))
    assert_close(run(loaded, IMAGE.to(dtype)), run(module, IMAGE.to(dtype)))


def test_a_shift_stays_only_where_the_layer_has_no_bias(tmp_path: Path) -> None:
    loaded, _ = kept(files.net(), tmp_path)
    shifts = {name: loaded.get_parameter(f"{name}.bias") for name in ("bn", "grouped_bn", "dense_bn")}
    assert shifts["bn"].abs().min() > 0
    assert not shifts["grouped_bn"].any()
    assert not shifts["dense_bn"].any()


def sequence(*layers: nn.Module) -> nn.Sequential:
    return nn.Sequential(*layers)


CHAINS = {
    "without γ and β": (sequence(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4, affine=False)), 1),
    "a large ε": (sequence(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4, eps=3.0)), 1),
    "two in a row behind a layer with bias": (sequence(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.BatchNorm2d(4)), 2),
    "two in a row behind one without": (
        sequence(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.BatchNorm2d(4)),
        None,
    ),
    "behind a pool": (sequence(nn.Conv2d(3, 4, 3, bias=False), nn.AvgPool2d(2), nn.BatchNorm2d(4)), 1),
    "before a layer with bias": (sequence(nn.ReLU(), nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3)), 1),
    "before a layer without": (sequence(nn.ReLU(), nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3, bias=False)), 0),
    "before padding": (sequence(nn.ReLU(), nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3, padding=1)), 0),
    "behind an activation": (sequence(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.BatchNorm2d(4), nn.ReLU()), 0),
}


@pytest.mark.parametrize(("module", "count"), CHAINS.values(), ids=CHAINS)
def test_whatever_folds_computes_the_same(tmp_path: Path, module: nn.Sequential, count: int | None) -> None:
    shaken(module)
    loaded, report = kept(module, tmp_path)
    assert count is None or report.folded == count
    assert_close(run(loaded, IMAGE), run(module, IMAGE))


def test_a_model_that_was_folded_so_has_nothing_more_to_fold_and_stays_as_it_is(tmp_path: Path) -> None:
    loaded, _ = kept(files.net(), tmp_path)
    again = tmp_path / "again.pt"
    bnfold.convert(tmp_path / "kept.pt", again, factory=Net, inputs=IMAGE, keep_architecture=True)
    twice = Net()
    twice.load_state_dict(torch.load(again, weights_only=True))
    assert_close(run(twice.eval(), IMAGE), run(loaded, IMAGE))


def test_the_command_verifies_and_can_write_safetensors(bnfold: CommandLine, tmp_path: Path) -> None:
    written(files.STATE_FILES, "plain.pt", tmp_path)
    outcome = bnfold("convert", "plain.pt", *KEEP, "--keep-architecture", "--to", "safetensors", "--verify")
    assert outcome.code == 0
    assert "the architecture is kept" in outcome.err
    assert load_file(tmp_path / "plain.folded.safetensors").keys() == files.state().keys()


@pytest.mark.parametrize(
    "words",
    [
        "plain.pt --keep-architecture --to onnx --model checkpoint_files:Net",
        "plain.pt --keep-architecture --to pt2 --model checkpoint_files:Net",
        "plain.pt --keep-architecture --pair conv=bn",
        "small.onnx --keep-architecture",
    ],
)
def test_keeping_what_has_no_use_for_it_is_exit_2(bnfold: CommandLine, tmp_path: Path, words: str) -> None:
    from sample_models import NETWORKS

    written(files.STATE_FILES, "plain.pt", tmp_path)
    (tmp_path / "small.onnx").write_bytes(next(item.onnx() for item in NETWORKS if item.shipped).read_bytes())
    outcome = bnfold("convert", *words.split())
    assert outcome.code == 2
    assert len(outcome.err.splitlines()) <= 3


# Folders.


@pytest.fixture
def hub(tmp_path: Path) -> Path:
    """A folder as the Hugging Face hub has them."""
    folder = tmp_path / "hub"
    (folder / "onnx").mkdir(parents=True)
    (folder / "config.json").write_text('{"architectures": ["Net"]}', encoding="utf-8")
    (folder / "tokenizer.json").write_text("{}", encoding="utf-8")
    (folder / "onnx" / "readme.md").write_text("another form", encoding="utf-8")
    save_file(files.state(), folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def others(folder: Path) -> dict[str, bytes]:
    weights = ("model", "pytorch_model")
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and not path.name.startswith(weights)
    }


def test_a_folder_keeps_its_architecture_and_everything_else(bnfold: CommandLine, hub: Path) -> None:
    before = {path: path.read_bytes() for path in hub.rglob("*") if path.is_file()}
    assert bnfold("convert", "hub", *KEEP, "--verify").code == 0
    folded = hub.with_name("hub.folded")
    assert others(folded) == others(hub)
    assert before == {path: path.read_bytes() for path in hub.rglob("*") if path.is_file()}
    with safe_open(folded / "model.safetensors", framework="pt") as file:
        assert file.metadata() == {"format": "pt"}
    loaded = Net()
    loaded.load_state_dict(load_file(folded / "model.safetensors"))
    assert_close(run(loaded.eval(), IMAGE), run(files.net(), IMAGE))
    assert not torch.equal(loaded.conv.weight, files.net().conv.weight)
    assert sorted(path.name for path in hub.parent.iterdir()) == ["hub", "hub.folded"]


@pytest.mark.parametrize("weights", ["shards", "pytorch_model.bin"])
def test_a_folder_with_weights_of_another_form(bnfold: CommandLine, hub: Path, weights: str) -> None:
    (hub / "model.safetensors").unlink()
    if weights == "shards":
        in_shards(hub)
    else:
        torch.save(files.state(), hub / weights)
    assert bnfold("convert", "hub", *KEEP, "-o", "out").code == 0
    out = hub.with_name("out")
    assert {path.name for path in out.iterdir()} == {path.name for path in hub.iterdir()}
    assert others(out) == others(hub)
    name = "model.safetensors.index.json" if weights == "shards" else weights
    assert_close(run(files.folded_into_fresh(out / name), IMAGE), run(files.net(), IMAGE))
    if weights == "shards":
        index = json.loads((out / name).read_text(encoding="utf-8"))
        assert index["weight_map"].keys() == files.state().keys()


def test_a_folder_may_be_named_from_inside(bnfold: CommandLine, hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(hub)
    assert bnfold("convert", ".", *KEEP).code == 0
    assert (hub.with_name("hub.folded") / "model.safetensors").is_file()


def test_links_of_the_hubs_cache_become_files(bnfold: CommandLine, hub: Path) -> None:
    blobs = hub.with_name("blobs")
    blobs.mkdir()
    for number, path in enumerate([path for path in hub.iterdir() if path.is_file()]):
        path.rename(blobs / str(number))
        path.symlink_to(blobs / str(number))
    assert bnfold("convert", "hub", *KEEP, "-o", "out").code == 0
    assert not any(path.is_symlink() for path in hub.with_name("out").iterdir())


def test_a_folder_is_replaced_on_the_users_word_only_and_never_by_halves(bnfold: CommandLine, hub: Path) -> None:
    out = hub.with_name("out")
    out.mkdir()
    (out / "mine").write_text("mine", encoding="utf-8")
    assert bnfold("convert", "hub", *KEEP, "-o", "out").code == 6
    assert bnfold("convert", "hub", *KEEP, "-o", "out", "--force").code == 6  # it is no model's folder
    (out / "config.json").write_text("{}", encoding="utf-8")
    assert bnfold("convert", "hub", *KEEP, "-o", "out").code == 6
    assert (out / "mine").exists()
    assert bnfold("convert", "hub", *KEEP, "-o", "out", "--force").code == 0
    assert not (out / "mine").exists()
    assert bnfold("convert", "hub", *KEEP, "-o", "out", "--check").code == 0
    assert sorted(path.name for path in hub.parent.iterdir()) == ["hub", "out"]


@pytest.mark.parametrize(
    ("options", "code"),
    [
        (["--to", "onnx"], 2),
        (["--pair", "conv=bn"], 2),
        (["-o", "hub"], 6),
        (["-o", "hub/inside"], 6),
        (["-o", "nowhere/out"], 6),
    ],
)
def test_a_folder_that_cannot_be_written_so_is_refused(
    bnfold: CommandLine, hub: Path, options: list[str], code: int
) -> None:
    outcome = bnfold("convert", "hub", *KEEP, *options)
    assert outcome.code == code
    assert len(outcome.err.splitlines()) <= 3
    assert [path.name for path in hub.parent.iterdir()] == ["hub"]


def test_a_folder_without_weights_or_without_a_configuration_is_exit_3(bnfold: CommandLine, hub: Path) -> None:
    (hub / "model.safetensors").rename(hub / "other.safetensors")
    assert bnfold("convert", "hub", *KEEP).code == 3
    (hub / "config.json").unlink()
    outcome = bnfold("convert", "hub", *KEEP)
    assert outcome.code == 3
    assert "other.safetensors" in outcome.err
    assert [path.name for path in hub.parent.iterdir()] == ["hub"]


def test_a_layer_without_a_bias_makes_up_for_a_value_beside_it(tmp_path: Path) -> None:
    class Sum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.bn = nn.Conv2d(3, 3, 3, padding=1, bias=False), nn.BatchNorm2d(3)
            shaken(self)
            self.bn.weight.data.fill_(2.0)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = x.relu()
            return self.bn(self.conv(x) + x).sigmoid()  # type: ignore[no-any-return]

    module, x = Sum(), torch.randn(2, 3, 6, 6)
    loaded, report = kept(module, tmp_path, x)
    assert [item.verdict for item in report.batch_norms] == ["folded"]
    assert torch.equal(scales(loaded.bn), torch.ones_like(scales(loaded.bn)))
    assert_close(run(loaded, x), run(module, x))
