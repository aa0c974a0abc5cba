from __future__ import annotations

import gzip
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from bnfold.data import mnist
from bnfold.data.idx import IdxFile
from bnfold.data.mnist import Place, Split, SplitFiles, cache_directory, load_mnist, places
from bnfold.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray

ARRAYS: dict[Split, tuple[NDArray[Any], NDArray[Any]]] = {
    "test": (np.arange(24, dtype=np.uint8).reshape(6, 2, 2), np.arange(6, dtype=np.uint8)),
    "train": (np.arange(36, dtype=np.uint8).reshape(9, 2, 2), np.arange(9, dtype=np.uint8)),
}


def published(name: str, array: NDArray[Any]) -> IdxFile:
    header = IdxFile(name, array.shape, "").header
    return IdxFile(name, array.shape, hashlib.sha256(header + array.tobytes()).hexdigest())


@pytest.fixture(autouse=True)
def _small_mnist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """A small MNIST of known arrays, and a machine on which every place is empty."""
    if "mnist" in request.keywords:
        return
    for split, arrays in ARRAYS.items():
        names = [file.name for file in mnist.FILES[split]]
        monkeypatch.setitem(mnist.FILES, split, SplitFiles(*map(published, names, arrays)))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("BNFOLD_MNIST", raising=False)


def write_idx(place: Path, *splits: Split, suffix: str = "") -> None:
    place.mkdir(parents=True, exist_ok=True)
    for split in splits:
        for file, array in zip(mnist.FILES[split], ARRAYS[split], strict=True):
            content = file.header + array.tobytes()
            (place / f"{file.name}{suffix}").write_bytes(gzip.compress(content) if suffix else content)


def write_keras(place: Path, **other: NDArray[Any]) -> None:
    place.mkdir(parents=True, exist_ok=True)
    arrays = {f"{letter}_{split}": array for split in ARRAYS for letter, array in zip("xy", ARRAYS[split], strict=True)}
    np.savez_compressed(place / "mnist.npz", allow_pickle=True, **(arrays | other))


def test_missing_mnist_names_every_place_and_the_way_out_in_three_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BNFOLD_MNIST", str(tmp_path / "named"))

    with pytest.raises(DataError) as caught:
        load_mnist()

    lines = str(caught.value).splitlines()
    assert caught.value.exit_code == 7
    assert len(lines) == 3
    for place in ("named", "named/MNIST/raw", "data", "data/MNIST/raw", "cache/bnfold/mnist"):
        assert str(Path(place)) in lines[1]
    assert "BNFOLD_MNIST" in lines[2]
    assert "--data DIR" in lines[2]


def test_directory_that_was_named_is_not_replaced_by_another_copy(tmp_path: Path) -> None:
    write_idx(tmp_path / "data", "test")

    with pytest.raises(DataError, match="not found"):
        load_mnist(directory=tmp_path / "empty")


def test_images_without_their_labels_are_not_found_and_the_error_says_what_is_there(tmp_path: Path) -> None:
    write_idx(tmp_path, "test")
    (tmp_path / "t10k-labels-idx1-ubyte").unlink()

    with pytest.raises(DataError, match="only t10k-images-idx3-ubyte"):
        load_mnist(directory=tmp_path)


def test_first_place_with_files_is_used_even_where_they_are_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_idx(tmp_path / "named", "test")
    write_idx(tmp_path / "data", "test")
    (tmp_path / "named" / "t10k-labels-idx1-ubyte").write_bytes(b"something else")
    monkeypatch.setenv("BNFOLD_MNIST", str(tmp_path / "named"))

    with pytest.raises(DataError, match="magic number"):
        load_mnist()


def test_place_that_may_not_be_looked_into_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_idx(tmp_path / "named", "test")
    write_idx(tmp_path / "data", "test")
    monkeypatch.setenv("BNFOLD_MNIST", str(tmp_path / "named"))
    monkeypatch.setattr("os.access", lambda place, _mode: "named" not in str(place))  # root may look anywhere

    assert load_mnist().origin == "data"
    assert places()[0] == Place(tmp_path / "named", found=False, why="no permission to look")


@pytest.mark.parametrize(
    ("other", "symptom"),
    [
        pytest.param({"x_test": ARRAYS["test"][0][::-1]}, "SHA-256", id="hash"),
        pytest.param({"x_test": np.zeros((6, 4), np.uint8)}, r"expected uint8 \(6, 2, 2\)", id="shape"),
        pytest.param({"x_test": ARRAYS["test"][0].astype(np.int8)}, "found int8", id="dtype"),
        pytest.param({"x_test": np.zeros(100_000, np.uint8)}, "at most 1064 bytes, found 100128", id="bomb"),
        pytest.param({"y_test": np.array([{}] * 6)}, "allow_pickle=False", id="pickle"),
    ],
)
def test_keras_archive_with_other_contents_is_refused(tmp_path: Path, other: dict[str, Any], symptom: str) -> None:
    write_keras(tmp_path, **other)

    with pytest.raises(DataError, match=symptom) as caught:
        load_mnist(directory=tmp_path)

    assert len(str(caught.value).splitlines()) == 3


@pytest.mark.parametrize("split", ["x", "nothing"])
def test_archive_that_is_not_keras_is_refused(tmp_path: Path, split: str) -> None:
    np.savez(tmp_path / "mnist.npz", allow_pickle=True, **{split: np.zeros(3)})

    with pytest.raises(DataError, match=r"no item named 'x_test.npy'"):
        load_mnist(directory=tmp_path)


def test_file_that_is_no_archive_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mnist.npz").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")

    with pytest.raises(DataError, match="not a zip file"):
        load_mnist(directory=tmp_path)


@pytest.mark.parametrize("split", ["test", "train"])
@pytest.mark.parametrize(
    "write",
    [
        pytest.param(lambda place: write_idx(place, "test", "train"), id="idx"),
        pytest.param(lambda place: write_idx(place, "test", "train", suffix=".gz"), id="idx-gz"),
        pytest.param(lambda place: write_idx(place / "MNIST" / "raw", "test", "train"), id="torchvision"),
        pytest.param(write_keras, id="keras"),
    ],
)
@pytest.mark.parametrize("place", ["directory", "BNFOLD_MNIST", "data", "cache/bnfold/mnist"])
def test_every_container_is_read_in_every_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, write: Any, split: Split
) -> None:
    write(tmp_path / place)
    if place == "BNFOLD_MNIST":
        monkeypatch.setenv(place, str(tmp_path / place))

    data = load_mnist(split, tmp_path / place if place == "directory" else None)

    images, labels = ARRAYS[split]
    assert data.y is not None
    np.testing.assert_array_equal(data.x, images)
    np.testing.assert_array_equal(data.y, labels)
    assert (data.name, data.images, len(data)) == ("mnist", True, len(images))
    assert Path(data.origin).is_relative_to(Path(place)) or Path(data.origin).is_relative_to(tmp_path / place)


def test_places_are_listed_in_the_order_they_are_searched_with_what_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BNFOLD_MNIST", str(tmp_path / "named"))
    write_idx(tmp_path / "named", "test")
    write_keras(tmp_path / "data")
    (tmp_path / "cache" / "bnfold" / "mnist").mkdir(parents=True)

    cache = tmp_path / "cache" / "bnfold" / "mnist"
    raw = Path("MNIST") / "raw"
    assert places() == [
        Place(tmp_path / "named", found=True, why="IDX files: test"),
        Place(tmp_path / "named" / raw, found=False, why="no such directory"),
        Place(Path("data"), found=True, why="Keras' mnist.npz"),
        Place("data" / raw, found=False, why="no such directory"),
        Place(cache, found=False, why="none of the files"),
        Place(cache / raw, found=False, why="no such directory"),
    ]


@pytest.mark.parametrize(
    ("system", "environment", "expected"),
    [
        pytest.param("Linux", {}, "home/.cache/bnfold/mnist", id="linux"),
        pytest.param("Linux", {"XDG_CACHE_HOME": "xdg"}, "xdg/bnfold/mnist", id="xdg"),
        pytest.param("Linux", {"XDG_CACHE_HOME": ""}, "home/.cache/bnfold/mnist", id="xdg-empty"),
        pytest.param("Darwin", {}, "home/Library/Caches/bnfold/mnist", id="macos"),
        pytest.param("Windows", {"LOCALAPPDATA": "local"}, "local/bnfold/mnist", id="windows"),
        pytest.param("Windows", {}, "home/AppData/Local/bnfold/mnist", id="windows-bare"),
    ],
)
def test_cache_is_where_the_platform_keeps_caches(system: str, environment: dict[str, str], expected: str) -> None:
    assert cache_directory(system, environment, Path("home")) == Path(expected)


@pytest.mark.mnist
@pytest.mark.parametrize(
    ("split", "counts"),
    [
        pytest.param("test", [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009], id="test"),
        pytest.param("train", [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949], id="train"),
    ],
)
def test_the_real_mnist_has_its_published_label_counts(split: Split, counts: list[int]) -> None:
    data = load_mnist(split)

    assert data.y is not None
    assert np.bincount(data.y).tolist() == counts
    assert data.x.shape == (sum(counts), 28, 28)
