"""Networks that a factory makes, and files of their tensors in every form that training scripts leave behind."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file, save_model
from torch import nn
from torch_modules import shaken

from bnfold import load_folded

State = dict[str, torch.Tensor]

FACTORY = "checkpoint_files:Net"
SHAPE = "2x3x8x8"
IMAGE = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(4))


class Net(nn.Module):
    """A conv without bias, a grouped one and a dense layer, each with a batch norm; one more that has to stay."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4)
        self.grouped, self.grouped_bn = nn.Conv2d(4, 6, 3, groups=2), nn.BatchNorm2d(6, eps=1e-3)
        self.late_bn = nn.BatchNorm2d(6)
        self.dense, self.dense_bn = nn.Linear(6, 5), nn.BatchNorm1d(5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.bn(self.conv(x)))
        x = torch.relu(self.late_bn(torch.relu(self.grouped_bn(self.grouped(x)))))
        return self.dense_bn(self.dense(x.mean((2, 3))))  # type: ignore[no-any-return]


class Tied(nn.Module):
    """Two dense layers with one weight, and a third one; each with a batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.a_bn = nn.Linear(6, 6), nn.BatchNorm1d(6)
        self.b, self.b_bn = nn.Linear(6, 6), nn.BatchNorm1d(6)
        self.c, self.c_bn = nn.Linear(6, 6, bias=False), nn.BatchNorm1d(6)
        self.b.weight = self.a.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.a_bn(self.a(x)))
        x = torch.relu(self.b_bn(self.b(x)))
        return self.c_bn(self.c(x))  # type: ignore[no-any-return]


class WithoutBatchNorm(nn.Sequential):
    """Nothing to fold."""

    def __init__(self) -> None:
        super().__init__(nn.Conv2d(3, 4, 3), nn.ReLU())


class Narrow(nn.Sequential):
    """Another architecture."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(6, 2))


def parallel() -> nn.Module:
    """The network as multi-GPU scripts wrap it."""
    return nn.DataParallel(Net())


def broken() -> nn.Module:
    """A factory with a mistake."""
    raise RuntimeError("no such depth\nand a second line")


def ends_the_process() -> nn.Module:
    """A training script's main function, which parses its own command line."""
    raise SystemExit(2)


def a_number() -> int:
    """No module."""
    return 3


NOT_CALLABLE = 3


def net() -> Net:
    """The network, with weights and statistics far from identity."""
    torch.manual_seed(11)
    module = Net()
    shaken(module)
    return module


def folded_into_fresh(path: Path) -> Net:
    """A new network with the tensors of a folded file."""
    module = load_folded(Net(), path)
    assert isinstance(module, Net)
    return module.eval()


def state() -> State:
    """Its tensors."""
    return dict(net().state_dict())


def prefixed() -> State:
    """Its tensors as DataParallel names them."""
    return {f"module.{name}": tensor for name, tensor in state().items()}


def in_dtype(dtype: torch.dtype, *, only: str = "") -> State:
    """Its tensors in another dtype, all or those whose names contain ``only``."""
    return {
        name: tensor.to(dtype) if tensor.is_floating_point() and only in name else tensor
        for name, tensor in state().items()
    }


def _legacy(content: object, path: Path) -> None:
    torch.save(content, path, _use_new_zipfile_serialization=False)


Write = Callable[[Path], Any]

STATE_FILES: dict[str, Write] = {
    "plain.pt": lambda path: torch.save(net().state_dict(), path),
    "plain.pth": lambda path: torch.save(net().state_dict(), path),
    "plain.safetensors": lambda path: save_file(state(), path),
    "legacy.pt": lambda path: _legacy(net().state_dict(), path),
    "state_dict.pt": lambda path: torch.save({"state_dict": state()}, path),
    "model.pt": lambda path: torch.save({"model": state(), "epoch": 3}, path),
    "model_state_dict.pth": lambda path: torch.save({"model_state_dict": state()}, path),
    "prefixed.pt": lambda path: torch.save(prefixed(), path),
    "prefixed.safetensors": lambda path: save_file(prefixed(), path),
    "wrapped_and_prefixed.pt": lambda path: torch.save({"state_dict": prefixed(), 0: "a key that is no text"}, path),
    "safetensors_inside.pt": lambda path: path.write_bytes(_content(".safetensors")),
    "pickle_inside.safetensors": lambda path: path.write_bytes(_content(".pt")),
}
"""By file name: how to write the network's state_dict there."""


def _content(suffix: str) -> bytes:
    """A plain file of the other format."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"plain{suffix}"
        STATE_FILES[path.name](path)
        return path.read_bytes()


def tied() -> Tied:
    """The network with tied weights."""
    torch.manual_seed(12)
    module = Tied()
    shaken(module)
    return module


TIED_FILES: dict[str, Write] = {
    "tied.pt": lambda path: torch.save(tied().state_dict(), path),
    "tied.safetensors": lambda path: save_model(tied(), str(path)),
    "tied_twice.safetensors": lambda path: save_file(
        {name: tensor.clone() for name, tensor in tied().state_dict().items()}, path
    ),
}
"""By file name: how to write tied weights; safetensors stores them once, unless they are copied before."""


def written(files: dict[str, Write], name: str, folder: Path) -> Path:
    """The file of this name, in ``folder``."""
    path = folder / name
    files[name](path)
    return path
