"""NumPy without the threads of its BLAS, for the commands that have no matrix products."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Final

_THREADS: Final = "OPENBLAS_NUM_THREADS"


@contextlib.contextmanager
def one_blas_thread() -> Iterator[None]:
    """A NumPy that is first imported in here stays on one thread, unless the user has chosen another number.

    OpenBLAS starts a thread for every core when it is loaded, and they spin while they wait for work: on two cores, for
    an eighth of the time of converting 100 MB. Other packages, loaded later, keep their own.
    """
    if _THREADS in os.environ:
        yield
        return
    os.environ[_THREADS] = "1"
    try:
        yield
    finally:
        del os.environ[_THREADS]
