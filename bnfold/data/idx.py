"""Reading IDX, the format MNIST is published in: a big-endian header, then unsigned bytes.

Source: Y. LeCun, C. Cortes, C. Burges, "The MNIST database of handwritten digits". The header is a 32-bit magic number
(two zero bytes, 8 for unsigned bytes, the rank), then one 32-bit size per axis.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import math
import struct
import zlib
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from bnfold.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

_UNSIGNED_BYTE = 0x08
_GZIP_MAGIC = b"\x1f\x8b"


@dataclass(frozen=True)
class IdxFile:
    """A file whose contents are known beforehand: its axes, and the SHA-256 of its uncompressed bytes."""

    name: str
    shape: tuple[int, ...]
    sha256: str

    @property
    def header(self) -> bytes:
        """The bytes before the data: magic number and sizes."""
        magic = _UNSIGNED_BYTE << 8 | len(self.shape)
        return struct.pack(f">{1 + len(self.shape)}I", magic, *self.shape)

    @property
    def size_bytes(self) -> int:
        """The uncompressed size, header included."""
        return len(self.header) + math.prod(self.shape)


def read_idx(path: Path, expected: IdxFile) -> NDArray[np.uint8]:
    """The array in an IDX file, plain or gzip-compressed (told apart by content: browsers unpack and keep the name).

    Reads one byte more than expected and no further, so that a decompression bomb ends there. Raises DataError, with
    what was expected and what was found, unless magic number, sizes and hash are the expected ones.
    """
    with _complaints_about(path), path.open("rb") as stream:
        payload = _read_at_most(stream, expected.size_bytes + 1)
    return _checked(payload, expected, path)


def parse_idx(content: bytes, expected: IdxFile, origin: str) -> NDArray[np.uint8]:
    """The array in the ``content`` of an IDX file that came from ``origin``; otherwise as read_idx."""
    with _complaints_about(origin):
        payload = _read_at_most(io.BytesIO(content), expected.size_bytes + 1)
    return _checked(payload, expected, origin)


def is_compressed(content: bytes) -> bool:
    """Whether the content of a file begins as gzip's does."""
    return content.startswith(_GZIP_MAGIC)


def _checked(payload: bytes, expected: IdxFile, origin: Path | str) -> NDArray[np.uint8]:
    _check_header(origin, payload, expected)
    array = np.frombuffer(payload, dtype=np.uint8, offset=len(expected.header)).reshape(expected.shape)
    check_hash(origin, array, expected)
    return array


def check_hash(origin: Path | str, array: NDArray[Any], expected: IdxFile) -> None:
    """Raise DataError unless ``array``, written as IDX, has the expected SHA-256; it came from ``origin``."""
    digest = hashlib.sha256(expected.header)
    digest.update(np.ascontiguousarray(array).data)
    if digest.hexdigest() != expected.sha256:
        found = digest.hexdigest()
        raise malformed(origin, expected, f"SHA-256 {expected.sha256[:16]}…", f"{found[:16]}…")


def malformed(origin: Path | str, file: IdxFile, expected: str, found: str) -> DataError:
    """The error for contents that are not those of the published file."""
    return DataError(
        f"MNIST's {file.name} has other contents than published: expected {expected}, found {found}",
        where=f"in {origin}",
        remedy="replace the file by the original, or name another directory with --data DIR",
    )


def _read_at_most(stream: BinaryIO, limit_bytes: int) -> bytes:
    """Up to ``limit_bytes`` of the uncompressed contents."""
    compressed = is_compressed(stream.read(len(_GZIP_MAGIC)))
    stream.seek(0)
    if not compressed:
        return stream.read(limit_bytes)
    with gzip.GzipFile(fileobj=stream) as unpacked:
        return unpacked.read(limit_bytes)


@contextmanager
def _complaints_about(origin: Path | str) -> Iterator[None]:
    """Turn what unreadable files and damaged compression raise into DataError."""
    try:
        yield
    except (OSError, EOFError, zlib.error) as error:  # gzip.BadGzipFile is an OSError
        raise DataError(
            f"MNIST's {PurePath(origin).name} cannot be read: {error}",
            where=f"in {origin}",
            remedy="replace the file by the original, or name another directory with --data DIR",
        ) from error


def _check_header(origin: Path | str, payload: bytes, expected: IdxFile) -> None:
    """Magic number first, then the sizes, then the number of bytes: the first that is wrong is the one worth saying."""
    header = expected.header
    if payload[:4] != header[:4]:
        raise malformed(origin, expected, f"magic number 0x{header[:4].hex()}", f"0x{payload[:4].hex()}")
    if len(payload) < len(header):
        raise malformed(origin, expected, f"{expected.size_bytes} bytes", str(len(payload)))
    sizes = struct.unpack(f">{len(expected.shape)}I", payload[4 : len(header)])
    if sizes != expected.shape:
        raise malformed(origin, expected, f"sizes {_times(expected.shape)}", _times(sizes))
    if len(payload) != expected.size_bytes:
        found = "more" if len(payload) > expected.size_bytes else str(len(payload))
        raise malformed(origin, expected, f"{expected.size_bytes} bytes", found)


def _times(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape))
