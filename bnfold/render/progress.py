"""Progress on stderr: only on a terminal, only for work that takes more than a second."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO

from bnfold.files.names import printable
from bnfold.render.page import is_live

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

ProgressCallback = Callable[[str, int, int], None]
"""Called with a label, how much is done, and how much there is to do."""

PATIENCE_SECONDS = 1.0
_REDRAWN_EVERY_SECONDS = 0.1


@contextmanager
def progress_shown(
    *, quiet: bool = False, stream: TextIO | None = None, clock: Callable[[], float] = time.monotonic
) -> Iterator[ProgressCallback]:
    """A callback whose calls are drawn as bars on ``stream`` (stderr), and gone when the work is over.

    It is silent where nobody would see the bars.
    """
    stream = stream or sys.stderr
    if quiet or not is_live(stream):
        yield _unseen
        return
    bars = _Bars(stream, clock)
    try:
        yield bars.show
    finally:
        bars.clear()


def _unseen(_label: str, _done: int, _total: int) -> None:
    """Nobody is looking."""


class _Bars:
    """A bar for each label; rich is imported, and the first bar drawn, after ``PATIENCE_SECONDS``.

    Bars are redrawn by the calls themselves: a thread of rich's would run into what ``bench`` times.
    """

    def __init__(self, stream: TextIO, clock: Callable[[], float]) -> None:
        self._stream = stream
        self._clock = clock
        self._next = clock() + PATIENCE_SECONDS
        self._progress: Progress | None = None
        self._tasks: dict[str, TaskID] = {}

    def show(self, label: str, done: int, total: int) -> None:
        now = self._clock()
        finishing = self._progress is not None and done == total  # a bar is not left standing at 99 %
        if now < self._next and not finishing:
            return
        self._next = now + _REDRAWN_EVERY_SECONDS
        if self._progress is None:
            self._progress = _started(self._stream)
        if label not in self._tasks:
            self._tasks[label] = self._progress.add_task(printable(label), total=total)
        self._progress.update(self._tasks[label], completed=done, total=total, refresh=True)

    def clear(self) -> None:
        if self._progress is not None:
            self._progress.stop()


def _started(stream: TextIO) -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(file=stream)
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TextColumn("{task.completed}/{task.total}"))
    progress = Progress(*columns, TimeRemainingColumn(), console=console, transient=True, auto_refresh=False)
    progress.start()
    return progress
