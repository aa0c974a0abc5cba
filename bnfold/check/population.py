"""The mean and variance of a population that is seen batch by batch: one number a channel, in constant memory.

Batches are merged as in Chan, Golub and LeVeque, "Algorithms for computing the sample variance" (1983), in float64.
Values are taken relative to the first of their channel, so that a channel that never moves has a variance of exactly 0.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from bnfold.core.rounding import F64Array
from bnfold.runtime.session import Array

STABLE_ERROR = 0.1
"""A variance with a relative standard error up to this is stable: 10 %, which is 5 % of the standard deviation."""


@dataclass(frozen=True, eq=False)
class Population:
    """What a batch norm's input was like: ``mean`` and unbiased ``variance`` are ``(C,)``.

    ``rows`` independent samples gave ``values`` numbers a channel. ``error`` ``(C,)`` is the relative standard error
    of each channel's variance, infinite for a single sample.
    """

    mean: F64Array
    variance: F64Array
    rows: int
    values: int
    error: F64Array

    @property
    def constant_channels(self) -> tuple[int, ...]:
        """The channels that never moved."""
        return tuple(int(channel) for channel in np.flatnonzero(self.variance == 0))

    @property
    def unstable_channels(self) -> int:
        """The number of channels whose variance is not stable."""
        return int((self.error > STABLE_ERROR).sum())

    @property
    def rows_needed(self) -> int:
        """About as many samples as would make every channel's variance stable, as far as these tell; two digits.

        The error shrinks with the square root of the number of samples. Of two samples nobody can tell how alike
        their values are: each counts as one.
        """
        enough = 1 + 2 / STABLE_ERROR**2
        if self.rows <= 2:  # noqa: PLR2004 - as said
            return _rounded_up(enough)
        measured = (float(self.error.max(initial=0.0)) / STABLE_ERROR) ** 2
        return _rounded_up(self.rows * max(enough / self.values, measured))


class PopulationTally:
    """A population while it is seen."""

    def __init__(self) -> None:
        self._rows = 0
        self._values = 0
        self._origin: F64Array = np.zeros(0)
        self._mean: F64Array = np.zeros(0)
        self._deviations: F64Array = np.zeros(0)
        """Per channel the sum of squared deviations from the mean."""
        self._row_sums: F64Array = np.zeros(0)
        """``(5, C)``: over the samples the sums of m, q, m², mq and q²; m and q are a sample's mean and mean square."""

    def add(self, batch: Array) -> None:
        """More of it, ``(N, C, …)``; NaN and infinities make its statistics what they are."""
        rows, channels = batch.shape[:2]
        with np.errstate(invalid="ignore", over="ignore"):
            wide = batch.astype(np.float64).reshape(rows, channels, -1)
            if not self._rows:
                self._origin = wide[0, :, 0].copy()
                self._mean, self._deviations = np.zeros(channels), np.zeros(channels)
                self._row_sums = np.zeros((5, channels))
            wide -= self._origin[:, None]
            self._merge(wide)
            means, squares = wide.mean(axis=2), np.square(wide).mean(axis=2)
            products = (means, squares, means**2, means * squares, squares**2)
            self._row_sums += np.stack([product.sum(axis=0) for product in products])
        self._rows += rows

    def _merge(self, wide: F64Array) -> None:
        """Chan's update with the two-pass mean and deviations of a batch ``(N, C, P)``."""
        count = wide.shape[0] * wide.shape[2]
        mean = wide.mean(axis=(0, 2))
        deviations = np.square(wide - mean[:, None]).sum(axis=(0, 2))
        total = self._values + count
        distance = mean - self._mean
        self._mean = self._mean + distance * (count / total)
        self._deviations = self._deviations + deviations + distance**2 * (self._values * count / total)
        self._values = total

    def result(self) -> Population:
        """What was seen so far. Of a single value a channel the variance is 0: it showed no spread."""
        with np.errstate(invalid="ignore"):
            mean, variance = self._origin + self._mean, self._deviations / max(self._values - 1, 1)
        return Population(mean, variance, self._rows, self._values, self._error(variance))

    def _error(self, variance: F64Array) -> F64Array:
        """The larger of two estimates of the relative standard error of the variance.

        1. √(2 / (n − 1)), that of n independent normal values.
        2. A sample's values belong together, and heavy tails say more than any formula: the standard error of the
           mean over samples of each one's mean squared deviation, which is q − 2δm + δ², δ being the mean.
        """
        if self._rows < 2:  # noqa: PLR2004 - one sample says nothing of others
            return np.full(len(variance), np.inf)
        normal = math.sqrt(2 / (self._values - 1))
        mean, square, mean_mean, mean_square, square_square = self._row_sums / self._rows
        offset = self._mean
        with np.errstate(invalid="ignore", divide="ignore"):
            spread = (square_square - square**2) - 4 * offset * (mean_square - mean * square)
            spread += 4 * offset**2 * (mean_mean - mean**2)
            measured = np.sqrt(np.maximum(spread, 0) / self._rows) / variance
        return np.maximum(np.where(variance > 0, measured, 0.0), normal)


def _rounded_up(number: float) -> int:
    """To two digits: 1,234 is 1,300."""
    unit = int(10 ** max(0, math.floor(math.log10(number)) - 1))
    return math.ceil(number / unit) * unit
