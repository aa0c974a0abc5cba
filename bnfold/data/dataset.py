"""What every loader of this room returns: samples, perhaps labels, and where they came from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class DataSet:
    """Samples, first axis N, as they were stored; scaling and shaping are the business of whoever feeds a model.

    ``x`` is ``(N, …)``; MNIST's is uint8 ``(N, 28, 28)``, raw pixels from 0 (background) to 255 (ink). ``y`` holds
    integer labels ``(N,)``, or None. ``origin`` is the file or directory that was read. ``images`` says that ``x``
    holds raw pixels, which a model wants shaped to its input and divided by 255.
    """

    name: str
    x: NDArray[Any]
    y: NDArray[Any] | None
    origin: str
    images: bool

    def __len__(self) -> int:
        return len(self.x)
