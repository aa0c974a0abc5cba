"""A file that goes to the disk while it is written.

Flushed at the end alone, 100 MB keep the disk busy for 50 to 150 ms in which nothing else is left to do.
"""

from __future__ import annotations

import io
import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final

from bnfold.files.beside import Beside

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

_PIECE_BYTES: Final = 1 << 24
"""What is worth a flush of its own."""


def open_flushing(path: Path) -> BinaryIO:
    """A new file to write. Raises OSError, when it is closed at the latest, also for a flush that failed."""
    return io.BufferedWriter(_FlushingFile(path))


class _FlushingFile(io.FileIO):
    """A file without a buffer; what was written is flushed on a thread, one flush at a time."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, "xb")
        self._unflushed_bytes = 0
        self._flush: Beside[None] | None = None

    def write(self, data: ReadableBuffer, /) -> int:
        """Write, and have it flushed where enough has come together and the disk is free."""
        written = super().write(data)
        self._unflushed_bytes += written
        if self._unflushed_bytes >= _PIECE_BYTES and (self._flush is None or self._flush.is_done):
            self._wait()
            self._flush = Beside(partial(os.fsync, self.fileno()))
            self._unflushed_bytes = 0
        return written

    def close(self) -> None:
        """Close the file, in any case; OSError where a flush failed."""
        try:
            self._wait()
        finally:
            super().close()

    def _wait(self) -> None:
        """For the flush that is on its way. Its error counts: the system tells of a lost page only once."""
        flush, self._flush = self._flush, None
        if flush is not None:
            flush.result()
