"""Writing past the system's cache (``O_DIRECT`` in open(2)), where the system can.

Through the cache, 2.5 GB take more processor time than folding them: 1.4 s, and 6 s in a virtual machine that gets its
memory page by page; and they push out what others need, the source of the fold among it.
"""

from __future__ import annotations

import errno
import os
import sys
from functools import partial
from mmap import mmap
from typing import TYPE_CHECKING, Final, Self

from bnfold.files.beside import Beside

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

BLOCK_BYTES: Final = 1 << 22
"""Written at a time, by a thread, while the next is filled: enough for any disk to be quick."""


class DirectWriter:
    """Writes into an open file, block by block. A block's OSError is raised by what is called after it."""

    @classmethod
    def of(cls, descriptor: int, start: int) -> Self | None:
        """From ``start`` on, where a sector of the disk begins; None where the system cannot."""
        return cls(descriptor, start) if _set_direct(descriptor, on=True) else None

    def __init__(self, descriptor: int, start: int) -> None:
        self.end = start
        """The place of the next write."""
        self._descriptor = descriptor
        self._filling, self._other = mmap(-1, BLOCK_BYTES), mmap(-1, BLOCK_BYTES)  # aligned, as malloc's is not
        self._filled = 0
        self._writing: Beside[None] | None = None

    def write(self, data: ReadableBuffer) -> int:
        """Take as much of ``data`` as has room; the number of bytes."""
        taken = memoryview(data).cast("B")[: BLOCK_BYTES - self._filled]
        self._filling[self._filled : self._filled + len(taken)] = taken
        self._filled += len(taken)
        self.end += len(taken)
        if self._filled == BLOCK_BYTES:
            self._wait()
            block = memoryview(self._filling)
            self._writing = Beside(partial(_write_all, self._descriptor, block, self.end - BLOCK_BYTES))
            self._filling, self._other, self._filled = self._other, self._filling, 0
        return len(taken)

    def finish(self) -> None:
        """Write what is left, which need not end at a sector, through the cache; later writes go there too."""
        self._wait()
        _set_direct(self._descriptor, on=False)
        _write_all(self._descriptor, memoryview(self._filling)[: self._filled], self.end - self._filled)

    def _wait(self) -> None:
        """Until the last block is written."""
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()


def _write_all(descriptor: int, data: memoryview, offset: int) -> None:
    """Write ``data`` at ``offset``; through the cache if it turns out that the file system does not write directly."""
    while data:
        try:
            written = os.pwrite(descriptor, data, offset)
        except OSError as error:
            if error.errno != errno.EINVAL or not _set_direct(descriptor, on=False):
                raise
            continue
        data, offset = data[written:], offset + written


if sys.platform == "linux":
    import fcntl

    def _set_direct(descriptor: int, *, on: bool) -> bool:
        """Let writes to a file be direct, or not any more; whether that is new."""
        before = fcntl.fcntl(descriptor, fcntl.F_GETFL)
        after = before | os.O_DIRECT if on else before & ~os.O_DIRECT
        try:
            fcntl.fcntl(descriptor, fcntl.F_SETFL, after)
        except OSError:  # the word of a file system that cannot
            return False
        return after != before

else:

    def _set_direct(descriptor: int, *, on: bool) -> bool:
        """False: how to do it elsewhere is not known here."""
        del descriptor, on
        return False
