"""When Python looks for objects that hold one another in a circle and nobody else holds."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def uncollected() -> Iterator[None]:
    """Nobody looks meanwhile, as otherwise each time when so many objects were made.

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
