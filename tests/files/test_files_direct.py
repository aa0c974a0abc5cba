from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import pytest

from bnfold.errors import OutputError
from bnfold.files import direct, flushing
from bnfold.files.writing import write_atomically

CACHED_BYTES, BLOCK_BYTES = 8192, 4096
CONTENT = bytes(range(256)) * 256
"""64 KB: eight times what goes through the cache here."""


@pytest.fixture(autouse=True)
def _nearly_all_is_direct(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flushing, "_CACHED_BYTES", CACHED_BYTES)
    monkeypatch.setattr(direct, "BLOCK_BYTES", BLOCK_BYTES)


@pytest.fixture
def directly(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The lengths of the direct writes, as they come, and ``0`` for each that the file system refused."""
    lengths: list[int] = []
    write = os.pwrite

    def observed(descriptor: int, data: memoryview, offset: int) -> int:
        if not is_direct(descriptor):
            return write(descriptor, data, offset)
        lengths.append(0)
        lengths[-1] = write(descriptor, data, offset)
        return lengths[-1]

    monkeypatch.setattr(os, "pwrite", observed)
    return lengths


def is_direct(descriptor: int) -> bool:
    if sys.platform != "linux":
        return False
    import fcntl

    return bool(fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_DIRECT)


def in_pieces(content: bytes, size: int) -> Callable[[BinaryIO], None]:
    def write(stream: BinaryIO) -> None:
        stream.writelines(content[start : start + size] for start in range(0, len(content), size))

    return write


# Failures


@pytest.mark.skipif(sys.platform != "linux", reason="only on Linux is anything written directly")
def test_a_disk_that_is_full_behind_the_cache_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    (tmp_path / "out.data").write_bytes(b"old")
    with pytest.raises(OutputError, match=r"No space left on device\nfree some space"):
        write_atomically(tmp_path / "out.data", in_pieces(CONTENT, 1000), force=True)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"out.data": b"old"}


def test_an_interrupt_leaves_nothing(tmp_path: Path) -> None:
    def interrupted(stream: BinaryIO) -> None:
        stream.write(CONTENT)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomically(tmp_path / "out.data", interrupted, force=False)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("refused_at", ["the switch", "the first write"])
def test_a_file_system_without_direct_writes_is_no_obstacle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused_at: str
) -> None:
    write = os.pwrite

    def refused(descriptor: int, data: memoryview, offset: int) -> int:
        if is_direct(descriptor):
            raise OSError(errno.EINVAL, "Invalid argument")
        return write(descriptor, data, offset)

    if refused_at == "the switch":
        monkeypatch.setattr(direct, "_set_direct", lambda _, *, on: not on)
    monkeypatch.setattr(os, "pwrite", refused)
    write_atomically(tmp_path / "out.data", in_pieces(CONTENT, 1000), force=False)
    assert (tmp_path / "out.data").read_bytes() == CONTENT


# Files


@pytest.mark.parametrize("size", [1, 1000, 4096, 10_000, len(CONTENT)])
@pytest.mark.parametrize(
    "length", [0, CACHED_BYTES - 1, CACHED_BYTES, CACHED_BYTES + 1, CACHED_BYTES + BLOCK_BYTES, 65_000, len(CONTENT)]
)
def test_every_byte_arrives(tmp_path: Path, directly: list[int], length: int, size: int) -> None:
    write_atomically(tmp_path / "out.data", in_pieces(CONTENT[:length], size), force=False)
    assert (tmp_path / "out.data").read_bytes() == CONTENT[:length]
    blocks = max(0, length - CACHED_BYTES) // BLOCK_BYTES
    assert directly in ([BLOCK_BYTES] * blocks, [0], [])  # refused, or no Linux


def test_what_was_written_directly_may_be_written_again(tmp_path: Path) -> None:
    """As archives do with what they know only at the end."""

    def write(stream: BinaryIO) -> None:
        stream.write(CONTENT)
        stream.write(b"tail")
        assert stream.tell() == len(CONTENT) + 4
        stream.seek(20_000)
        stream.write(b"again")
        stream.seek(0, os.SEEK_END)
        stream.write(b"end")
        stream.truncate(stream.tell() - 1)

    write_atomically(tmp_path / "out.pt", write, force=False)
    assert (tmp_path / "out.pt").read_bytes() == CONTENT[:20_000] + b"again" + CONTENT[20_005:] + b"tailen"


def test_going_back_before_anything_is_direct(tmp_path: Path) -> None:
    def write(stream: BinaryIO) -> None:
        stream.write(b"12345678")
        stream.seek(0)
        stream.write(CONTENT)

    write_atomically(tmp_path / "out.pt", write, force=False)
    assert (tmp_path / "out.pt").read_bytes() == CONTENT
