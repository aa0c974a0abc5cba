"""Is a file byte for byte what would be written?"""

from __future__ import annotations

from typing import BinaryIO


class ComparingStream:
    """A stream that holds what is written to it against what ``expected`` gives, and keeps nothing of it."""

    def __init__(self, expected: BinaryIO) -> None:
        self._expected = expected
        self._is_same = True

    def write(self, data: bytes | memoryview) -> None:
        """Compare the next bytes, unless a difference was found already."""
        if self._is_same:
            self._is_same = self._expected.read(len(data)) == data

    def is_same(self) -> bool:
        """Whether all bytes were the same, and none are left over. Asked once, after the last write."""
        return self._is_same and not self._expected.read(1)
