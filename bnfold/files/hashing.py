"""Which file exactly: its SHA-256 and size, for the reports.

Hashing 100 MB takes a tenth of a second, as long as folding them. It lets other threads run meanwhile, so it is done
beside the work: that saves a fifth of the time of converting a ResNet-50.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final, NamedTuple

from bnfold.errors import InputError
from bnfold.files.beside import Beside
from bnfold.files.names import printable
from bnfold.files.writing import Content, create_folder, put, write_together
from bnfold.records import ExternalRecord, FileRecord

if TYPE_CHECKING:
    from _typeshed import SupportsWrite

_WORTH_A_THREAD: Final = 1 << 20
"""Bytes; fewer are hashed before a thread has started."""

_PIECE_BYTES: Final = 1 << 23
"""Read at a time. After each piece a thread waits for Python's lock, up to 5 ms beside a busy one: with pieces of
256 KB, which ``hashlib.file_digest`` reads, it took twice the time."""


class FileHash(NamedTuple):
    """A file's SHA-256 and size."""

    sha256: str
    bytes: int


def file_hash(path: Path) -> FileHash:
    """The hash of a file, taken in pieces, whatever its size. Raises InputError where it cannot be read."""
    with _readable(path), path.open("rb") as stream:
        digest = hashlib.sha256()
        piece = memoryview(bytearray(min(_PIECE_BYTES, os.fstat(stream.fileno()).st_size)))
        while length := stream.readinto(piece):
            digest.update(piece[:length])
        return FileHash(digest.hexdigest(), stream.tell())


def file_record(
    path: Path, file_format: str, *, external: tuple[Path, ...] = (), hashed: FileHash | None = None
) -> FileRecord:
    """The record of a model file; ``external`` files are listed, not hashed. ``hashed``: its hash, if it is known.

    Raises InputError where a file cannot be read.
    """
    found = hashed or file_hash(path)
    with _readable(path):
        beside = tuple(ExternalRecord(str(item), item.stat().st_size) for item in external)
    return FileRecord(path=str(path), format=file_format, sha256=found.sha256, bytes=found.bytes, external=beside)


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """InputError where reading inside fails."""
    try:
        yield
    except OSError as error:
        name = printable(str(error.filename or path))
        raise InputError(f"cannot read {name}: {error.strerror or error}") from error


class HashingStream:
    """A stream that also takes the hash of what is written to it, with ``record`` for the file that this becomes."""

    def __init__(self, stream: SupportsWrite[bytes | memoryview]) -> None:
        self._stream = stream
        self._digest = hashlib.sha256()
        self._bytes = 0
        self._hashing: Beside[None] | None = None

    def write(self, data: bytes | memoryview) -> None:
        """Write all of ``data``, which must not change any more: a large piece is hashed while the next is made."""
        self._bytes += len(data)
        self._wait()
        if len(data) < _WORTH_A_THREAD:
            self._digest.update(data)
        else:
            self._hashing = Beside(partial(self._digest.update, data))
        self._stream.write(data)

    def _wait(self) -> None:
        """Until the hash of the last piece is taken."""
        if self._hashing is not None:
            self._hashing.result()
            self._hashing = None

    def record(self, path: Path, file_format: str) -> FileRecord:
        """The record of the file, once it is at ``path``."""
        self._wait()
        return FileRecord(path=str(path), format=file_format, sha256=self._digest.hexdigest(), bytes=self._bytes)


def write_hashed(
    contents: Mapping[Path, Content], target: Path, file_format: str, *, force: bool, inputs: Iterable[Path] = ()
) -> FileRecord:
    """Put ``contents`` in place, as ``write_together`` does; what ``target``, the one that refers to the others, is."""
    records: list[FileRecord] = []
    beside = {path: content for path, content in contents.items() if path != target}

    def hashed(stream: BinaryIO) -> None:
        hashing = HashingStream(stream)
        put(contents[target], hashing)
        records.append(hashing.record(target, file_format))

    for folder in {path.parent for path in beside} - {target.parent}:
        create_folder(folder)
    write_together({**beside, target: hashed}, force=force, inputs=inputs)
    external = tuple(ExternalRecord(str(path), path.stat().st_size) for path in beside)
    return replace(records[0], external=external)
