from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

import bnfold.data
from bnfold.errors import DataError, InputError

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("name", ["mnsit", "random", "no/such/directory"])
def test_unknown_name_says_what_is_known(name: str) -> None:
    with pytest.raises(DataError) as caught:
        bnfold.data.load(name)

    assert f"no data set '{name}'" in caught.value.what
    assert "mnist, a FILE.npz" in caught.value.where


def test_directory_without_mnist_is_a_data_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not found"):
        bnfold.data.load(str(tmp_path))


def test_missing_npz_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        bnfold.data.load(str(tmp_path / "mine.npz"))


def test_file_under_another_name_is_read_as_npz(tmp_path: Path) -> None:
    np.savez(tmp_path / "mine.npz", x=np.arange(3))
    (tmp_path / "mine.npz").rename(tmp_path / "samples")

    assert len(bnfold.data.load(str(tmp_path / "samples"))) == 3


@pytest.mark.mnist
def test_mnist_by_name_and_by_directory_are_the_same_images() -> None:
    by_name = bnfold.data.load("mnist")
    by_directory = bnfold.data.load(by_name.origin, split="test")

    np.testing.assert_array_equal(by_name.x, by_directory.x)
    assert by_name.x.shape == (10_000, 28, 28)
