"""What a series of timings says: robust summaries, and how sure the ratio of two models is."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from bnfold.records import Speed, Timing

if TYPE_CHECKING:
    from collections.abc import Sequence

PRACTICAL_DIFFERENCE = 0.01
"""A ratio within 1 % of 1 is no difference, however sure: layouts of memory and code alone move timings that much."""

_RESAMPLES = 1000
_INTERVAL = (2.5, 97.5)


@dataclass(frozen=True)
class Ratio:
    """The median of paired ratios (this model's time / the original's), with its bootstrap 95 % interval."""

    median: float
    low: float
    high: float

    @property
    def verdict(self) -> Speed:
        """``faster`` or ``slower`` where the interval leaves out 1 and the median is more than 1 % away from it."""
        if self.high < 1 and self.median < 1 - PRACTICAL_DIFFERENCE:
            return "faster"
        if self.low > 1 and self.median > 1 + PRACTICAL_DIFFERENCE:
            return "slower"
        return "no difference"


def paired_ratio(times: Sequence[float], original_times: Sequence[float], seed: int) -> Ratio:
    """The ratio of two series whose i-th members were timed right after one another.

    The interval is the percentile bootstrap's of the median (Efron and Tibshirani, 1993, chapter 13), over pairs.
    """
    ratios = np.asarray(times) / np.asarray(original_times)
    generator = np.random.default_rng(seed)
    medians = [np.median(generator.choice(ratios, ratios.size)) for _ in range(_RESAMPLES)]
    low, high = np.percentile(medians, _INTERVAL)
    return Ratio(float(np.median(ratios)), float(low), float(high))


def timing(model: str, times_ms: Sequence[float], ratio: Ratio | None) -> Timing:
    """The record of one model's timings; ``ratio`` is None for the original. MAD is the median absolute deviation."""
    median = float(np.median(times_ms))
    summary = Timing(
        model=model,
        median_ms=median,
        p90_ms=float(np.percentile(times_ms, 90)),
        mad_ms=float(np.median(np.abs(np.asarray(times_ms) - median))),
        samples_ms=tuple(times_ms),
    )
    if ratio is None:
        return summary
    return replace(summary, ratio=ratio.median, ratio_low=ratio.low, ratio_high=ratio.high, verdict=ratio.verdict)
