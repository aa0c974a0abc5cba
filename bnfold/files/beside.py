"""Work on a thread beside the rest: hashing and flushing let other threads run meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

_Result = TypeVar("_Result")


class Beside(Generic[_Result]):
    """Work on a thread of its own; ``concurrent.futures`` does this and more, and takes 15 ms to import."""

    def __init__(self, work: Callable[[], _Result]) -> None:
        self._work = work
        self._results: list[_Result] = []
        self._errors: list[Exception] = []
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    @property
    def is_done(self) -> bool:
        """Whether ``result`` would not have to wait."""
        return not self._thread.is_alive()

    def result(self) -> _Result:
        """Wait for the work to be done; what it returned, or the error that it raised."""
        self._thread.join()
        for error in self._errors:
            raise error
        return self._results[0]

    def _run(self) -> None:
        try:
            self._results.append(self._work())
        except Exception as error:  # noqa: BLE001 - it is raised again where the result is asked for
            self._errors.append(error)
