from __future__ import annotations

import gzip
import hashlib
import struct
import tracemalloc
from typing import TYPE_CHECKING

import numpy as np
import pytest

from bnfold.data.idx import IdxFile, read_idx
from bnfold.errors import DataError

if TYPE_CHECKING:
    from pathlib import Path

PIXELS = bytes(range(12))
HEADER = struct.pack(">4I", 0x803, 3, 2, 2)
FILE = IdxFile("images-idx3-ubyte", (3, 2, 2), hashlib.sha256(HEADER + PIXELS).hexdigest())


@pytest.mark.parametrize(
    ("content", "expected", "found"),
    [
        pytest.param(struct.pack(">4I", 0x801, 3, 2, 2) + PIXELS, "magic number 0x00000803", "0x00000801", id="magic"),
        pytest.param(b"<!DOCTYPE html>", "magic number 0x00000803", "0x3c21444f", id="html"),
        pytest.param(b"", "magic number 0x00000803", "0x", id="empty"),
        pytest.param(struct.pack(">4I", 0x803, 3, 4, 1) + PIXELS, "sizes 3×2×2", "3×4×1", id="sizes"),
        pytest.param(HEADER[:10], "28 bytes", "10", id="header-cut-short"),
        pytest.param(HEADER + PIXELS[:-1], "28 bytes", "27", id="data-cut-short"),
        pytest.param(HEADER + PIXELS + b"\0", "28 bytes", "more", id="too-long"),
        pytest.param(HEADER + PIXELS[::-1], f"SHA-256 {FILE.sha256[:16]}…", "…", id="hash"),
    ],
)
@pytest.mark.parametrize("compressed", [False, True], ids=["plain", "gz"])
def test_other_contents_are_refused_with_what_was_expected_and_found(
    tmp_path: Path, content: bytes, expected: str, found: str, *, compressed: bool
) -> None:
    path = tmp_path / "images-idx3-ubyte"
    path.write_bytes(gzip.compress(content) if compressed else content)

    with pytest.raises(DataError) as caught:
        read_idx(path, FILE)

    assert f"expected {expected}, found " in caught.value.what
    assert caught.value.what.endswith(found)
    assert str(path) in caught.value.where
    assert caught.value.exit_code == 7
    assert len(str(caught.value).splitlines()) == 3


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda packed: packed[:-9], id="cut-short"),
        pytest.param(lambda packed: packed[:12] + b"\xff\xff\xff" + packed[15:], id="bad-stream"),
        pytest.param(lambda packed: packed[:-8] + b"\0\0\0\0" + packed[-4:], id="bad-checksum"),
    ],
)
def test_damaged_gzip_is_refused(tmp_path: Path, damage: object) -> None:
    path = tmp_path / "images-idx3-ubyte.gz"
    assert callable(damage)
    path.write_bytes(damage(gzip.compress(HEADER + PIXELS)))

    with pytest.raises(DataError, match="cannot be read"):
        read_idx(path, FILE)


def test_missing_file_is_a_data_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        read_idx(tmp_path / "nowhere", FILE)


def test_decompression_bomb_ends_at_the_known_size(tmp_path: Path) -> None:
    bomb_bytes = 64 << 20
    path = tmp_path / "images-idx3-ubyte.gz"
    path.write_bytes(gzip.compress(HEADER + bytes(bomb_bytes), compresslevel=1))

    tracemalloc.start()
    with pytest.raises(DataError, match="expected 28 bytes, found more"):
        read_idx(path, FILE)
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert peak_bytes < bomb_bytes / 16


@pytest.mark.parametrize("name", ["images-idx3-ubyte", "images-idx3-ubyte.gz"])
@pytest.mark.parametrize("compressed", [False, True], ids=["plain", "gz"])
def test_reads_plain_and_compressed_files_whatever_they_are_called(
    tmp_path: Path, name: str, *, compressed: bool
) -> None:
    path = tmp_path / name
    path.write_bytes(gzip.compress(HEADER + PIXELS) if compressed else HEADER + PIXELS)

    images = read_idx(path, FILE)

    assert images.dtype == np.uint8
    assert images.tolist() == [[[0, 1], [2, 3]], [[4, 5], [6, 7]], [[8, 9], [10, 11]]]
