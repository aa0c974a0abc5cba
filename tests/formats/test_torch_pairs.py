"""A state_dict without its architecture: what cannot be told is asked for, and what is folded is right."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import checkpoint_files as files
import pytest
import torch
from checkpoint_files import IMAGE
from cli_fixtures import CommandLine
from safetensors.torch import load_file, save_file
from torch import nn
from torch_modules import assert_close, run, shaken

import bnfold
from bnfold.errors import UsageError

PAIRS = ("conv=bn", "grouped=grouped_bn", "dense=dense_bn")
TOLD = ("conv:conv=bn", "grouped:conv=grouped_bn", "dense=dense_bn")


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    torch.save({"state_dict": files.state(), "optimizer": {}, "epoch": 3}, tmp_path / "net.pt")
    return tmp_path / "net.pt"


# What is no pair.


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--pair conv", "is no pair"),
        ("--pair conv=bn=bn2", "is no pair"),
        ("--pair conv:deep=bn", "is no pair"),
        ("--pair cnov=bn", "did you mean 'conv'?"),
        ("--pair conv=nb", "the file has no 'nb.running_mean'"),
        ("--pair dense=bn", "dense has weights of 5×6, bn has 4 channels: these do not fit"),
        ("--pair conv:linear=bn", "these do not fit"),
        ("--pair conv=bn --pair conv=late_bn", "'conv' is in two pairs"),
        ("--pair bn=conv", "the file has no 'conv.running_mean'"),
        ("--pair conv=bn --eps -1", "-1"),
        ("--pair conv=bn --model checkpoint_files:Net", "without its architecture"),
        ("--pair conv=bn --verify", "does not run"),
        ("--pair conv=bn --bench", "does not run"),
        ("--eps 1e-3", "--eps is for pairs"),
        ("--pair auto --pair conv=bn", "give it alone"),
    ],
)
def test_is_exit_2_in_three_lines(bnfold: CommandLine, plain: Path, options: str, said: str) -> None:
    outcome = bnfold("convert", plain.name, *options.split())
    assert outcome.code == 2
    assert said in outcome.err
    assert len(outcome.err.splitlines()) <= 3
    assert sorted(plain.parent.iterdir()) == [plain]


SQUARE: dict[str, tuple[tuple[int, ...], str, str]] = {
    "a square convolution": ((4, 4, 3, 3), "conv", "conv-transpose"),
    "a convolution that could be a grouped transposed one": ((4, 2, 3, 3), "conv", "conv-transpose"),
    "a square matrix": ((4, 4), "linear", "linear-transpose"),
}


@pytest.mark.parametrize(("shape", "one", "other"), SQUARE.values(), ids=SQUARE)
def test_shapes_that_leave_the_axis_open_ask(tmp_path: Path, shape: tuple[int, ...], one: str, other: str) -> None:
    path = stored({"layer.weight": torch.randn(shape), **norm(4)}, tmp_path)
    with pytest.raises(UsageError, match=rf"leave open.*\n.*layer:{one}=bn or --pair layer:{other}=bn"):
        bnfold.convert(path, tmp_path / "folded.safetensors", pairs=["layer=bn"])
    results = []
    for kind in (one, other):
        bnfold.convert(path, tmp_path / f"{kind}.safetensors", pairs=[f"layer:{kind}=bn"])
        results.append(load_file(tmp_path / f"{kind}.safetensors")["layer.weight"])
    assert not torch.equal(*results)


def norm(channels: int) -> dict[str, torch.Tensor]:
    bn = shaken(nn.BatchNorm1d(channels))
    return {f"bn.{name}": tensor for name, tensor in bn.state_dict().items()}


def stored(state: dict[str, torch.Tensor], folder: Path) -> Path:
    save_file(state, folder / "net.safetensors")
    return folder / "net.safetensors"


def test_a_weight_that_another_name_shares_stays(tmp_path: Path) -> None:
    weight = torch.randn(4, 3)
    torch.save({"a.weight": weight, "b.weight": weight, **norm(4)}, tmp_path / "tied.pt")
    report = bnfold.convert(tmp_path / "tied.pt", tmp_path / "folded.pt", pairs=["a=bn"])
    (item,) = report.batch_norms
    assert item.reason is not None
    assert item.reason.slug == "weight-shared"


# What folds.


def test_pairs_fold_like_the_architecture(bnfold: CommandLine, plain: Path) -> None:
    options = [word for pair in TOLD for word in ("--pair", pair)]
    with_one_epsilon = bnfold("convert", plain.name, *options, "--skip", "grouped_bn", "-o", "some.pt")
    assert with_one_epsilon.code == 0
    assert "1e-05, torch's default" in with_one_epsilon.err
    assert "left alone: late_bn" in with_one_epsilon.err
    assert "optimizer" in with_one_epsilon.err
    rest = ["--pair", "grouped:conv=grouped_bn", "--eps", "1e-3"]
    assert bnfold("convert", "some.pt", *rest, "-o", "all.pt").code == 0
    module = files.folded_into_fresh(plain.parent / "all.pt")
    assert isinstance(module.get_submodule("grouped_bn"), nn.Identity)
    assert_close(run(module, IMAGE), run(files.net(), IMAGE))
    content = torch.load(plain.parent / "all.pt", weights_only=True)
    assert list(content) == ["state_dict", "epoch"]
    assert list(content["state_dict"])[:2] == ["conv.weight", "conv.bias"]


LAYERS = {
    "a convolution": (nn.Conv2d(3, 4, 3), "conv"),
    "without bias": (nn.Conv2d(3, 4, 3, bias=False), "conv"),
    "grouped": (nn.Conv2d(6, 4, 3, groups=2), "conv"),
    "depthwise": (nn.Conv2d(4, 4, 3, groups=4), ""),
    "of one dimension": (nn.Conv1d(3, 4, 3), ""),
    "transposed": (nn.ConvTranspose2d(3, 4, 3), ""),
    "transposed, grouped": (nn.ConvTranspose2d(4, 4, 3, groups=2), "conv-transpose"),
    "transposed, depthwise": (nn.ConvTranspose2d(4, 4, 3, groups=4), ""),
    "a matrix": (nn.Linear(3, 4), ""),
}


@pytest.mark.parametrize(("layer", "kind"), LAYERS.values(), ids=LAYERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_every_kind_of_layer(tmp_path: Path, layer: nn.Module, kind: str, dtype: torch.dtype) -> None:
    net = WithNorm(layer).to(dtype)
    path = stored(dict(net.state_dict()), tmp_path)
    pair = f"layer:{kind}=bn" if kind else "layer=bn"
    bnfold.convert(path, tmp_path / "folded.safetensors", pairs=[pair])
    folded = bnfold.load_folded(WithNorm(layer).to(dtype), tmp_path / "folded.safetensors").eval()
    x = torch.randn(*net.shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    assert_close(run(folded, x), run(net, x))


class WithNorm(nn.Module):
    """A layer like this one, and its batch norm."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.layer = copy.deepcopy(layer)
        spatial = layer.weight.dim() - 2
        self.bn: nn.Module = nn.BatchNorm2d(4) if spatial == 2 else nn.BatchNorm1d(4)
        inputs = layer.in_features if isinstance(layer, nn.Linear) else layer.in_channels
        self.shape = (2, inputs, *[5] * spatial)
        shaken(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.bn(self.layer(x))  # type: ignore[no-any-return]


def test_a_batch_norm_without_weights_of_its_own(tmp_path: Path) -> None:
    statistics = {name: tensor for name, tensor in norm(4).items() if "running" in name}
    path = stored({"layer.weight": torch.ones(4, 3), **statistics}, tmp_path)
    bnfold.convert(path, tmp_path / "folded.safetensors", pairs=["layer=bn"], eps=0.5)
    folded = load_file(tmp_path / "folded.safetensors")
    scale = 1 / (statistics["bn.running_var"].double() + 0.5).sqrt()
    assert torch.allclose(folded["layer.weight"].double(), scale[:, None].expand(4, 3))
    assert torch.allclose(folded["layer.bias"].double(), -statistics["bn.running_mean"].double() * scale)


def test_a_prefix_is_part_of_the_names_and_may_be_missing_from_the_architecture(tmp_path: Path) -> None:
    path = stored(files.prefixed(), tmp_path)
    bnfold.convert(path, tmp_path / "folded.safetensors", pairs=["module.conv:conv=module.bn"])
    assert_close(run(files.folded_into_fresh(tmp_path / "folded.safetensors"), IMAGE), run(files.net(), IMAGE))


# The list.


def test_auto_lists_what_fits_and_says_that_names_lie(bnfold: CommandLine, plain: Path) -> None:
    outcome = bnfold("convert", plain.name, "--pair", "auto")
    assert outcome.code == 0
    assert "--pair conv=bn  (4×3×3×3, 4 channels, conv)\n" in outcome.out
    assert "--pair dense=dense_bn  (5×6, 5 channels, linear)\n" in outcome.out
    assert "lie" in outcome.err
    assert sorted(plain.parent.iterdir()) == [plain]
    found = json.loads(bnfold("convert", plain.name, "--pair", "auto", "--format", "json").out)
    assert {item["pair"] for item in found} >= {"conv=bn", "dense=dense_bn"}


def test_auto_lists_an_open_kind_with_its_first_way(bnfold: CommandLine, tmp_path: Path) -> None:
    stored({"layer.weight": torch.ones(4, 4), **norm(4)}, tmp_path)
    assert "--pair layer:linear=bn" in bnfold("convert", "net.safetensors", "--pair", "auto").out
