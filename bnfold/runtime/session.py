"""The seam between models that can run and the code that compares and times them.

``check/`` sees two sessions and knows neither formats nor folding; a new runtime is a new file beside this one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from bnfold.errors import InputError

Array = NDArray[Any]
Feeds = Mapping[str, Array]


class NoKernelError(InputError):
    """The runtime knows the model's operators but cannot compute them in its types: another runtime may."""


@dataclass(frozen=True)
class TensorSpec:
    """An input or output: ``dtype`` in NumPy's words (or ``bfloat16``); a dimension is a size, a symbol or unknown.

    ``shape`` is None where even the rank is unknown.
    """

    name: str
    dtype: str
    shape: tuple[int | str | None, ...] | None


class Session(Protocol):
    """A model that is ready to run."""

    label: str
    """The runtime and how it is configured, for people: ``onnxruntime, optimisations off``."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def run(self, feeds: Feeds) -> dict[str, Array]:
        """Outputs by name, in the model's order. Raises InputError where the runtime rejects model or feeds."""
        ...

    def prepare(self, feeds: Feeds) -> Callable[[], object]:
        """A call that runs the model once on ``feeds`` and nothing else: what ``bench`` times."""
        ...


def numpy_dtype(name: str) -> np.dtype[Any]:
    """The NumPy dtype that a ``TensorSpec`` names; NumPy itself has no bfloat16, ml_dtypes gives it one."""
    if name == "bfloat16":
        import ml_dtypes

        name = ml_dtypes.bfloat16
    return np.dtype(name)


def is_float(dtype: np.dtype[Any]) -> bool:
    """Whether ``dtype`` is a real floating-point type: one of NumPy's, or bfloat16, whose kind NumPy does not know."""
    return dtype.kind == "f" or dtype.name == "bfloat16"
