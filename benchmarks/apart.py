"""Work in a process of its own, so that a crash ends that process alone. For systems with fork."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from multiprocessing.connection import Connection

LIMIT_SECONDS = 60.0


def apart(work: Callable[[], object]) -> object:
    """What ``work`` returns in a process of its own; None where that fails, or takes too long."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_tell, args=(work, theirs))
    process.start()
    theirs.close()
    process.join(LIMIT_SECONDS)
    if process.is_alive():
        process.kill()
        process.join()
    return ours.recv() if process.exitcode == 0 and ours.poll() else None


def _tell(work: Callable[[], object], answer: Connection) -> None:
    """Send what ``work`` returns; what it prints is of no interest."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(nowhere, stream)
    answer.send(work())
