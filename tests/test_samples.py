"""A PyTorch model leaves open what it takes: where there is data, its samples say so, and nothing is guessed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

import bnfold
from bnfold.errors import DataError, UsageError

Build = Callable[[], nn.Module]


def images(*, size: int | None = None, channels: int = 3, dtype: torch.dtype = torch.float32) -> Build:
    """A small network for images; of one ``size`` alone, if it is given."""

    def build() -> nn.Module:
        torch.manual_seed(4)
        last = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 4)]
        if size is not None:
            last = [nn.Flatten(), nn.Linear(5 * (size - 2) ** 2, 4)]
        return nn.Sequential(nn.Conv2d(channels, 5, 3), nn.BatchNorm2d(5), nn.ReLU(), *last).to(dtype).eval()

    return build


def tokens() -> nn.Module:
    torch.manual_seed(4)
    return nn.Sequential(nn.Embedding(9, 6), nn.Flatten(), nn.Linear(42, 4), nn.BatchNorm1d(4)).eval()


def dense() -> nn.Module:
    torch.manual_seed(4)
    return nn.Sequential(nn.Linear(400, 4), nn.BatchNorm1d(4)).eval()


def floats(*shape: int) -> NDArray[Any]:
    return np.random.default_rng(1).normal(size=(12, *shape)).astype(np.float32)


def whole(most: int, dtype: str, *shape: int) -> NDArray[Any]:
    return np.random.default_rng(1).integers(0, most, (12, *shape)).astype(dtype)


FITTING: dict[str, tuple[Build, NDArray[Any]]] = {
    "any images": (images(), floats(3, 50, 40)),
    "images of one size": (images(size=20), floats(3, 20, 20)),
    "pixels": (images(size=20), whole(256, "uint8", 3, 20, 20)),
    "pixels without a channel": (images(size=20, channels=1), whole(256, "uint8", 20, 20)),
    "pixels that lie flat": (dense, whole(256, "uint8", 20, 20)),
    "float64": (images(size=20, dtype=torch.float64), floats(3, 20, 20)),
    "tokens": (tokens, whole(9, "int64", 7)),
    "whole numbers for floats": (dense, whole(9, "int32", 400)),
}


@pytest.mark.parametrize(("build", "x"), FITTING.values(), ids=FITTING)
def test_samples_say_what_a_module_takes(tmp_path: Path, build: Build, x: NDArray[Any]) -> None:
    source, folded, data = tmp_path / "net.pt", tmp_path / "folded.pt", tmp_path / "data.npz"
    torch.save(build().state_dict(), source)
    np.savez(data, x=x)

    converted = bnfold.convert(source, folded, factory=build, verify=str(data))
    verified = bnfold.verify(source, folded, factory=build, data=str(data))
    calibrated = bnfold.calibrate(source, data, factory=build, refresh=True)

    assert converted.folded == 1
    assert converted.verification is not None
    assert converted.verification.passed
    assert verified.passed
    assert verified.data.samples == 12
    assert calibrated.report.calibrated == 1


@pytest.mark.parametrize("command", ["verify", "calibrate"])
def test_samples_that_do_not_fit_are_told_with_what_was_tried(tmp_path: Path, command: str) -> None:
    source, data = tmp_path / "net.pt", tmp_path / "data.npz"
    torch.save(images(size=20)().state_dict(), source)
    np.savez(data, x=floats(3, 21, 21))
    models = (source, source) if command == "verify" else (source,)
    with pytest.raises(UsageError, match="the samples do not fit the model") as caught:
        getattr(bnfold, command)(*models, data=str(data), factory=images(size=20))
    assert caught.value.where.startswith("2x3x21x21: ")
    assert "--input" in caught.value.remedy


def test_inputs_that_are_given_go_before_the_samples(tmp_path: Path) -> None:
    torch.save(images()().state_dict(), tmp_path / "net.pt")
    np.savez(tmp_path / "data.npz", x=floats(3, 21, 21))
    with pytest.raises(UsageError, match="do not fit input"):
        bnfold.verify(
            *(tmp_path / "net.pt", tmp_path / "net.pt"),
            factory=images(),
            inputs=torch.ones(2, 3, 20, 20),
            data=str(tmp_path / "data.npz"),
        )


def test_data_that_is_missing_is_told_before_a_module_is_folded(tmp_path: Path) -> None:
    torch.save(images()().state_dict(), tmp_path / "net.pt")
    with pytest.raises(DataError, match="there is no data set 'mnits'"):
        bnfold.convert(tmp_path / "net.pt", factory=images(), verify="mnits")
    assert [path.name for path in tmp_path.iterdir()] == ["net.pt"]
