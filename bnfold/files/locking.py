"""One process at a time: a lock that the system takes back when its holder ends, however it ends."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final

from bnfold.errors import OutputError

_ASKED_EVERY_SECONDS: Final = 0.1


@contextmanager
def locked(path: Path, waiting: Callable[[], object]) -> Iterator[None]:
    """Hold the lock that the file at ``path`` stands for; ``waiting`` is called once where another process holds it.

    The file is there while somebody holds the lock or waits for it, and gone afterwards. Raises OutputError where it
    cannot be made.
    """
    try:
        stream = _acquired(path, waiting)
    except OSError as error:
        raise OutputError(
            f"cannot lock {path}: {error.strerror or error}", remedy="choose a folder that you may write to"
        ) from error
    try:
        yield
    finally:
        _give_back(path, stream)


def _acquired(path: Path, waiting: Callable[[], object]) -> BinaryIO:
    """The lock file, open and locked, once it is ours."""
    told = False
    while True:
        stream = path.open("ab")
        if _try_lock(stream) and _is_still_named(path, stream):
            return stream
        stream.close()
        if not told:
            waiting()
            told = True
        time.sleep(_ASKED_EVERY_SECONDS)


def _is_still_named(path: Path, stream: BinaryIO) -> bool:
    """Whether ``path`` leads to the file that is locked: whoever held the lock before us has removed the name."""
    try:
        return os.path.samestat(path.stat(), os.fstat(stream.fileno()))
    except FileNotFoundError:
        return False


if sys.platform == "win32":
    import msvcrt

    def _try_lock(stream: BinaryIO) -> bool:
        try:
            msvcrt.locking(stream.fileno(), msvcrt.LK_NBLCK, 1)
        except OSError:  # what Windows says where another process has it
            return False
        return True

    def _give_back(path: Path, stream: BinaryIO) -> None:
        """An open file keeps its name on Windows, so the name stays where somebody waits."""
        stream.close()
        try:
            path.unlink(missing_ok=True)
        except PermissionError:
            return

else:
    import fcntl

    def _try_lock(stream: BinaryIO) -> bool:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def _give_back(path: Path, stream: BinaryIO) -> None:
        """The name goes first: nobody can lock the file by it between the two."""
        path.unlink(missing_ok=True)
        stream.close()
