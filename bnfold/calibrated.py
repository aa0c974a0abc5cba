"""Old statistics and new ones become records, in plain data, with what is to be said of them."""

from __future__ import annotations

import math

import numpy as np

from bnfold.check.population import STABLE_ERROR, Population
from bnfold.core.verdict import channel_list
from bnfold.formats.statistics import StoredStatistics
from bnfold.records import CalibratedRecord


def calibrated_record(
    stored: StoredStatistics, population: Population | None, step: int | None, samples: int
) -> CalibratedRecord:
    """A batch norm's statistics before, and after the pass ``step`` over ``samples``; no population: they stay."""
    old_mean, old_variance = _numbers(stored.mean), _numbers(stored.variance)
    if population is None:
        warnings = (_UNTOUCHED,) if stored.is_untouched and not stored.left else ()
        return CalibratedRecord(
            stored.name, "kept", stored.left, old_mean=old_mean, old_variance=old_variance, warnings=warnings
        )
    moved = None
    if stored.mean is not None and stored.mean.shape == population.mean.shape:
        unit = np.sqrt(population.variance + stored.epsilon)
        distances = np.abs(population.mean - stored.mean)
        moved = float(np.divide(distances, unit, out=np.full_like(unit, math.inf), where=unit > 0).max())
    return CalibratedRecord(
        name=stored.name,
        action="estimated" if stored.is_missing else "refreshed",
        step=step,
        values=population.values,
        old_mean=old_mean,
        old_variance=old_variance,
        mean=_numbers(population.mean),
        variance=_numbers(population.variance),
        mean_moved=moved,
        variance_error=float(population.error.max()),
        constant_channels=population.constant_channels,
        warnings=_population_warnings(population, samples),
    )


_UNTOUCHED = "mean 0 and variance 1 in every channel, as before any training: --refresh estimates them"


def _population_warnings(population: Population, samples: int) -> tuple[str, ...]:
    """Channels without any spread, and channels whose variance too few samples tell."""
    warnings = []
    if population.constant_channels:
        warnings.append(f"{channel_list(list(population.constant_channels))} never moved: variance 0")
    if population.unstable_channels:
        needed = population.rows_needed * samples // population.rows
        worst = float(population.error.max())
        how_far = f"up to {100 * worst:.0f} %" if math.isfinite(worst) else "one sample shows none"
        warnings.append(
            f"too few samples for a stable variance in {population.unstable_channels} of {len(population.mean)} "
            f"channels: its standard error is above {100 * STABLE_ERROR:.0f} % ({how_far}); "
            f"about {needed:,} samples would do"
        )
    return tuple(warnings)


def _numbers(values: np.ndarray | None) -> tuple[float, ...] | None:
    return None if values is None else tuple(float(value) for value in values)
