"""What calibration sees of a format: the batch norms of a model, and where their statistics are stored."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from bnfold.core.rounding import F64Array, rounded
from bnfold.errors import InputError


@dataclass(frozen=True, eq=False)
class StoredStatistics:
    """A batch norm before calibration: ``mean`` and ``variance`` are ``(C,)``, None where it has none.

    ``is_missing`` says that it normalises with the statistics of each batch, whatever is stored; ``left`` why its
    statistics cannot be estimated, though it has some.
    """

    name: str
    is_missing: bool
    mean: F64Array | None
    variance: F64Array | None
    epsilon: float
    left: str = ""

    @property
    def is_untouched(self) -> bool:
        """Whether the statistics are 0 and 1 in every channel, as before any training."""
        return (
            self.mean is not None
            and not self.mean.any()
            and self.variance is not None
            and bool((self.variance == 1).all())
        )


class StatisticsOfModel(Protocol):
    """A model whose batch norms get new statistics. Batch norms are named by their place in ``batch_norms``."""

    batch_norms: tuple[StoredStatistics, ...]

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should know beyond the batch norms."""
        ...

    def metadata(self, key: str) -> str | None:
        """What the model says of itself under ``key``, where its format has metadata."""
        ...

    def depths(self, chosen: Collection[int]) -> dict[int, int]:
        """For each of ``chosen`` the most others of them whose output its input depends on, one after the other."""
        ...

    def store(self, index: int, mean: F64Array, variance: F64Array) -> None:
        """Let a batch norm normalise with these statistics ``(C,)``, whatever the batch. InputError if too large."""
        ...

    def finish(self) -> None:
        """All is stored."""
        ...


def require_fitting(name: str, dtype: str, *statistics: F64Array) -> None:
    """InputError where a statistic of the batch norm ``name`` is not finite once stored in ``dtype``."""
    for values in statistics:
        stored = rounded(values, dtype)
        finite = (stored & 0x7F80) != 0x7F80 if dtype == "bfloat16" else np.isfinite(stored)  # noqa: PLR2004 - Inf's bits
        if not finite.all():
            raise InputError(
                f"the statistics of {name!r} do not fit into {dtype}",
                where=f"the largest is {np.abs(values).max():.3g}",
                remedy="calibrate the model in a wider dtype, or look at how the data is scaled",
            )
