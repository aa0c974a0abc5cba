"""What was found out becomes records: the verdicts of a plan, and new statistics, in words and plain data."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import fields, is_dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from bnfold.check.population import STABLE_ERROR, Population
from bnfold.core.graph import Node
from bnfold.core.traits import ScaleShiftTraits
from bnfold.core.verdict import Fold, Keep, Plan, Verdict, channel_list
from bnfold.files.hashing import file_hash
from bnfold.formats.statistics import StoredStatistics
from bnfold.records import (
    BatchNormRecord,
    CalibratedRecord,
    ExternalRecord,
    FileRecord,
    Form,
    ReasonRecord,
    Report,
)

_Report = TypeVar("_Report", bound=Report)


def batch_norm_records(plan: Plan) -> tuple[BatchNormRecord, ...]:
    """One record per batch norm, in graph order."""
    return tuple(_record(plan, verdict) for verdict in plan)


def with_data_hashes(report: _Report) -> _Report:
    """The report, with the hashes of all external data in it; each file is read once. Raises InputError."""
    hashed: _Report = _with_hashes(report, {})
    return hashed


def _with_hashes(value: Any, known: dict[str, str]) -> Any:  # noqa: ANN401 - whatever a report holds
    if isinstance(value, ExternalRecord):
        if value.path not in known:
            known[value.path] = file_hash(Path(value.path)).sha256
        return replace(value, sha256=known[value.path])
    if isinstance(value, tuple) and value and isinstance(value[0], FileRecord | ExternalRecord):
        return tuple(_with_hashes(item, known) for item in value)
    if isinstance(value, FileRecord | Report) and is_dataclass(value):
        return replace(value, **{item.name: _with_hashes(getattr(value, item.name), known) for item in fields(value)})
    return value


def unmatched_globs(plan: Plan, only: Sequence[str], skip: Sequence[str]) -> tuple[str, ...]:
    """A warning for each glob that fits the name of no batch norm: a misspelt one would leave everything as it was."""
    labels = [verdict.bn.label for verdict in plan]
    return tuple(
        f"--{option} {pattern!r} fits the name of no batch norm; `bnfold inspect` lists the names"
        for option, patterns in (("only", only), ("skip", skip))
        for pattern in patterns
        if not any(fnmatchcase(label, pattern) for label in labels)
    )


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


def _record(plan: Plan, verdict: Verdict) -> BatchNormRecord:
    if isinstance(verdict, Keep):
        return BatchNormRecord(verdict.bn.label, _form(verdict.bn), "kept", reason=_reason(verdict))
    return _folded(plan, verdict)


def _folded(plan: Plan, fold: Fold) -> BatchNormRecord:
    return BatchNormRecord(
        fold.bn.label,
        _form(fold.bn),
        "folded",
        rule=fold.rule,
        into=tuple(dict.fromkeys(plan.ends_in(node).label for node in fold.into)),
        scale_range=fold.affine.scale_range,
        warnings=fold.warnings,
    )


def _form(bn: Node) -> Form:
    """Whether a batch norm is an operator, or written out as arithmetic with constants."""
    return "decomposed" if isinstance(bn.traits, ScaleShiftTraits) else "operator"


def _reason(keep: Keep) -> ReasonRecord:
    at = keep.node.label if keep.node else "the model's edge"
    return ReasonRecord(keep.reason.code, keep.reason.slug, at, keep.detail, keep.reason.remedy)
