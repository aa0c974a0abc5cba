from __future__ import annotations

import io
import zipfile
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from bnfold.data import npz
from bnfold.data.npz import load_npz
from bnfold.errors import InputError, UnsafeError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SAMPLES = np.zeros((4, 3), np.float32)


def npy(array: np.ndarray[Any, Any]) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=True)
    return stream.getvalue()


def archive_of(**members: bytes) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in members.items():
                archive.writestr(f"{name}.npy", content)

    return write


def with_header(entry: str) -> bytes:
    header = f"{{'descr': '<f4', 'fortran_order': False, {entry}}}\n".encode()
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + bytes(16)


@pytest.mark.parametrize(
    ("write", "symptom"),
    [
        pytest.param(lambda path: None, "does not exist", id="missing"),  # noqa: ARG005 - nothing is written
        pytest.param(lambda path: path.write_bytes(b""), "not a zip file", id="empty"),
        pytest.param(lambda path: path.write_bytes(npy(SAMPLES)), "not a zip file", id="npy"),
        pytest.param(archive_of(a=npy(SAMPLES), b=npy(SAMPLES)), "no `x` in the archive, only 'a', 'b'", id="no-x"),
        pytest.param(archive_of(), "no `x` in the archive, which is empty", id="no-members"),
        pytest.param(archive_of(x=npy(np.array([{}]))), "allow_pickle=False", id="pickled-x"),
        pytest.param(archive_of(x=npy(SAMPLES), y=npy(np.array([{}] * 4))), "allow_pickle=False", id="pickled-y"),
        pytest.param(archive_of(x=b"no array"), "magic string", id="no-array"),
        pytest.param(archive_of(x=npy(SAMPLES)[:-8]), "EOF", id="cut-short"),
        pytest.param(archive_of(x=with_header("'shape': (1099511627776,)")), "cannot read", id="claims-terabytes"),
        pytest.param(archive_of(x=with_header(f"'shape': ({1 << 70},)")), "cannot read", id="claims-more"),
        pytest.param(archive_of(x=with_header("'shape': (True,)")), "cannot read", id="header-type"),
        pytest.param(archive_of(x=with_header("'shape': (((")), "cannot read", id="header-bracket"),
        pytest.param(archive_of(x=with_header('"""')), "cannot read", id="header-string"),
        pytest.param(archive_of(x=with_header("}\n  x\n y")), "cannot read", id="header-indent"),
        pytest.param(archive_of(**{"\x1b[2J\nfake": npy(SAMPLES)}), r"only '\x1b[2J\nfake'", id="terminal-codes"),
        pytest.param(archive_of(x=npy(np.array(["one"]))), "holds <U3, which is no number", id="text"),
        pytest.param(archive_of(x=npy(SAMPLES + 1j)), "which is no number", id="complex"),
        pytest.param(archive_of(x=npy(np.array(1.0))), "no samples", id="scalar"),
        pytest.param(archive_of(x=npy(SAMPLES[:0])), "no samples", id="no-samples"),
        pytest.param(archive_of(x=npy(SAMPLES), y=npy(np.arange(3))), "expected (4,) for 4 samples", id="lengths"),
        pytest.param(archive_of(x=npy(SAMPLES), y=npy(np.eye(4, dtype=int))), "has shape (4, 4)", id="one-hot"),
        pytest.param(archive_of(x=npy(SAMPLES), y=npy(np.zeros(4))), "holds float64, expected integers", id="floats"),
    ],
)
def test_malformed_file_is_an_input_error(tmp_path: Path, write: Callable[[Path], None], symptom: str) -> None:
    path = tmp_path / "mine.npz"
    write(path)

    with pytest.raises(InputError) as caught:
        load_npz(path)

    assert symptom in caught.value.what
    assert str(path) in caught.value.where
    assert caught.value.exit_code == 3
    assert len(str(caught.value).splitlines()) == 3


def test_damaged_member_is_an_input_error(tmp_path: Path) -> None:
    path = tmp_path / "mine.npz"
    np.savez_compressed(path, x=np.arange(1000))
    content = bytearray(path.read_bytes())
    content[200:260] = bytes(60)
    path.write_bytes(content)

    with pytest.raises(InputError, match="cannot read samples"):
        load_npz(path)


def test_directory_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="directory"):
        load_npz(tmp_path)


def test_archive_that_unpacks_beyond_the_limit_is_refused_unread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.savez_compressed(tmp_path / "mine.npz", x=np.zeros(100_000))
    monkeypatch.setattr(npz, "LIMIT_BYTES", 1000)

    with pytest.raises(UnsafeError, match="at most 1000 are read") as caught:
        load_npz(tmp_path / "mine.npz")

    assert caught.value.exit_code == 4


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed], ids=["stored", "compressed"])
def test_samples_and_labels_come_back_as_they_were_saved(tmp_path: Path, save: Callable[..., None]) -> None:
    x, y = np.arange(12.0).reshape(4, 3), np.array([3, 1, 0, 2])
    save(tmp_path / "mine.npz", x=x, y=y, extra=np.zeros(2))

    data = load_npz(tmp_path / "mine.npz")

    assert data.y is not None
    np.testing.assert_array_equal(data.x, x)
    np.testing.assert_array_equal(data.y, y)
    assert (data.name, data.origin, data.images) == ("mine.npz", str(tmp_path / "mine.npz"), False)


def test_labels_are_optional(tmp_path: Path) -> None:
    np.savez(tmp_path / "mine.npz", x=SAMPLES)

    assert load_npz(tmp_path / "mine.npz").y is None


@pytest.mark.parametrize(
    ("x", "images"),
    [
        pytest.param(np.zeros((2, 5, 5), np.uint8), True, id="grey"),
        pytest.param(np.zeros((2, 3, 5, 5), np.uint8), True, id="channels"),
        pytest.param(np.zeros((2, 25), np.uint8), False, id="flat"),
        pytest.param(np.zeros((2, 5, 5), np.float32), False, id="floats"),
        pytest.param(np.zeros((2, 5, 5), np.int64), False, id="tokens"),
    ],
)
def test_only_bytes_of_an_images_rank_are_taken_for_raw_pixels(
    tmp_path: Path, x: np.ndarray[Any, Any], *, images: bool
) -> None:
    np.savez(tmp_path / "mine.npz", x=x)

    assert load_npz(tmp_path / "mine.npz").images is images
