"""Is a zip archive whole? torch reads one without comparing a single checksum."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from typing import Final

from bnfold.errors import InputError, UnsafeError
from bnfold.files.names import printable

GROWTH_LIMIT: Final = 10
"""How many times an archive's size its records may unpack to: torch.save compresses nothing, and tensors little."""

_PIECE_BYTES: Final = 1 << 20


def require_intact(path: Path) -> None:
    """Read every record of the archive at ``path``, which is a zip archive, and compare its checksum.

    A record whose checksum is 0 has none: torch.serialization.set_crc32_options(False) leaves them out. Raises
    InputError for a damaged record, UnsafeError where little data would unpack to much.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            records = archive.infolist()
            unpacked = sum(record.file_size for record in records)
            if unpacked > GROWTH_LIMIT * path.stat().st_size:
                raise UnsafeError(
                    f"the archive would unpack to {unpacked:,} bytes, {GROWTH_LIMIT} times its size or more",
                    where=str(path),
                    remedy="save the checkpoint again with torch.save, which does not compress",
                )
            damaged = next((record.filename for record in records if not _is_intact(archive, record)), None)
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError, OSError) as error:
        raise _damaged(path, str(error).partition("\n")[0] or type(error).__name__) from error
    if damaged is not None:
        raise _damaged(path, f"the checksum of its record {printable(damaged)} is wrong")


def _is_intact(archive: zipfile.ZipFile, record: zipfile.ZipInfo) -> bool:
    """Whether a record's bytes are those that its checksum was taken of."""
    stored, record.CRC = record.CRC, 0  # zipfile raises at the end of a record, and does so for an absent checksum too
    found, size = 0, 0
    with archive.open(record) as stream:
        stream._expected_crc = None  # type: ignore[attr-defined]  # noqa: SLF001 - as above: no public way to skip it
        while piece := stream.read(_PIECE_BYTES):
            found, size = zlib.crc32(piece, found), size + len(piece)
    return size == record.file_size and stored in {0, found}


def _damaged(path: Path, detail: str) -> InputError:
    return InputError(
        f"the archive is damaged: {detail}",
        where=str(path),
        remedy="copy or download it again; torch itself would load it without noticing",
    )
