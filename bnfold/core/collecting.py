"""Python's search for objects that hold one another in a circle and that nobody else holds."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def uncollected() -> Iterator[None]:
    """Put the search off: Python would begin it anew whenever some thousands of objects have been made.

    A plan makes tens of thousands that are in no circle, beside the hundreds of thousands of torch's to look through.
    No model must run in here: whatever circles its code makes may hold large tensors.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
