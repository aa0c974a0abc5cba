"""Which file exactly: its SHA-256 and size, for the reports."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from bnfold.errors import InputError
from bnfold.files.names import printable
from bnfold.records import ExternalRecord, FileRecord


def file_record(path: Path, file_format: str, *, external: tuple[Path, ...] = ()) -> FileRecord:
    """The record of a model file, hashed in pieces, whatever its size; ``external`` files are listed, not hashed.

    Raises InputError where a file cannot be read.
    """
    try:
        with path.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
            size = os.fstat(stream.fileno()).st_size
        beside = tuple(ExternalRecord(str(item), item.stat().st_size) for item in external)
    except OSError as error:
        name = printable(str(error.filename or path))
        raise InputError(f"cannot read {name}: {error.strerror or error}") from error
    return FileRecord(path=str(path), format=file_format, sha256=digest, bytes=size, external=beside)
