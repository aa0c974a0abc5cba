"""Does a model's output for a sample depend on the other samples of its batch? With batch statistics it does."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from bnfold.check.accuracy import scores_output
from bnfold.check.inputs import Source
from bnfold.check.shapes import fixed_batch
from bnfold.check.tolerance import default_tolerance
from bnfold.errors import InputError
from bnfold.records import BatchDependence
from bnfold.runtime.session import Array, Feeds, Session, is_float

SHOWN = 100
"""As many samples are run one by one and together once a dependence was found."""
_PROBED = 8
"""As many samples are run to find one."""
_FACTOR, _CEILING = 100, 0.1
"""Other company moves an output by much more than rounding: a hundred times the tolerance, or a tenth of its scale."""


def batch_dependence(
    model: Literal["original", "folded"], session: Session, source: Source, rounding_errors: Mapping[str, float]
) -> BatchDependence | None:
    """Whether an output of ``session`` depends on a sample's company, and how much; None where it does not.

    Two samples are run in company of others, and in company of copies of themselves: batches of one size, so that a
    runtime computes both alike. Not judged is a model that has randomness of its own, or does not take such batches.
    ``rounding_errors`` are, by output, how far one ulp in the inputs moves it, relative to its scale.
    """
    try:
        name = _depending_output(session, source, rounding_errors)
        return _shown(model, name, session, source) if name else None
    except InputError:
        return None


def _depending_output(session: Session, source: Source, rounding_errors: Mapping[str, float]) -> str:
    """The first output that depends on a sample's company; empty where none does."""
    size = fixed_batch(session.inputs)
    samples = _Samples.of(source, _PROBED if size is None else size)
    if samples.count < 2:  # noqa: PLR2004 - a sample alone has no company
        return ""
    together = session.run(samples.fed(range(samples.count), size))
    for index in (0, samples.count // 2):
        alone = session.run(samples.fed([index] * samples.count, size))
        for name in _judged(together, alone, size or samples.count):
            limit = _limit(together[name], rounding_errors.get(name, 0.0))
            is_random = _distance(alone[name][0], alone[name][-1]) > limit
            if _distance(together[name][index], alone[name][0]) > limit and not is_random:
                return name
    return ""


@dataclass(frozen=True, eq=False)
class _Samples:
    """The first samples of a source, and how to feed some of them."""

    feeds: Feeds
    count: int
    rows: frozenset[str]
    """The inputs that have one row a sample; the others are the same for all."""

    @classmethod
    def of(cls, source: Source, wanted: int) -> _Samples:
        """The first ``wanted`` samples, or as many as there are."""
        parts: list[Feeds] = []
        rows: frozenset[str] = frozenset()
        count = 0
        for batch in source.batches():
            rows = frozenset(name for name, array in batch.feeds.items() if batch.has_rows(array))
            parts.append(batch.trimmed(batch.feeds))
            count += batch.samples
            if count >= wanted:
                break
        feeds = {
            name: np.concatenate([part[name] for part in parts])[:wanted] if name in rows else array
            for name, array in parts[0].items()
        }
        return cls(feeds, min(count, wanted), rows)

    def fed(self, indices: Sequence[int], size: int | None) -> Feeds:
        """These samples as one batch; a fixed one of ``size`` is filled up with the last of them."""
        chosen = [*indices, *[indices[-1]] * ((size or 0) - len(indices))]
        return {name: array[chosen] if name in self.rows else array for name, array in self.feeds.items()}

    def alone(self, session: Session, size: int | None) -> Iterator[dict[str, Array]]:
        """The outputs for each sample by itself; where a model does not run on one, in company of its own copy."""
        copies = 1
        for index in range(self.count):
            try:
                outputs = session.run(self.fed([index] * copies, size))
            except InputError:
                if copies > 1:
                    raise
                copies = 2
                outputs = session.run(self.fed([index] * copies, size))
            yield {name: array[:1] for name, array in outputs.items() if array.ndim}

    def together(self, session: Session, size: int | None) -> dict[str, Array]:
        """The outputs for all samples: in one batch, or in as few as a fixed size allows."""
        step = size or self.count
        parts = []
        for start in range(0, self.count, step):
            indices = range(start, min(start + step, self.count))
            outputs = session.run(self.fed(indices, size))
            parts.append({name: array[: len(indices)] for name, array in outputs.items() if array.ndim})
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _judged(together: Mapping[str, Array], alone: Mapping[str, Array], rows: int) -> list[str]:
    """The outputs of numbers with one row a sample in both."""
    return [
        name
        for name, array in together.items()
        if array.ndim and len(array) == rows and is_float(array.dtype) and alone[name].shape == array.shape
    ]


def _limit(output: Array, rounding_error: float) -> float:
    """How far apart two rows may be, absolutely."""
    finite = np.abs(output[np.isfinite(output)].astype(np.float64))
    scale = float(finite.max(initial=0.0))
    return scale * min(_FACTOR * default_tolerance(output.dtype, rounding_error), _CEILING)


def _distance(a: Array, b: Array) -> float:
    """The largest distance of two numbers in the same place; infinite where only one of them is a number."""
    wide, other = a.astype(np.float64), b.astype(np.float64)
    finite = np.isfinite(wide)
    if not np.array_equal(finite, np.isfinite(other)):
        return np.inf
    return float(np.abs(wide[finite] - other[finite]).max(initial=0.0))


def _shown(model: Literal["original", "folded"], name: str, session: Session, source: Source) -> BatchDependence:
    """The same samples one by one and together: how far apart, and what becomes of the predictions."""
    size = fixed_batch(session.inputs)
    samples = _Samples.of(source, SHOWN)
    together = samples.together(session, size)
    parts = list(samples.alone(session, size))
    alone = {output: np.concatenate([part[output] for part in parts]) for output in together}
    scale = float(np.abs(together[name][np.isfinite(together[name])].astype(np.float64)).max(initial=0.0))
    distance = _distance(together[name], alone[name])
    scores = scores_output(together, np.zeros(samples.count))
    agreeing = distinct_alone = distinct_together = None
    if scores is not None:
        one_by_one, in_company = (outputs[scores].argmax(axis=-1) for outputs in (alone, together))
        agreeing = int((one_by_one == in_company).sum())
        distinct_alone, distinct_together = len(np.unique(one_by_one)), len(np.unique(in_company))
    return BatchDependence(
        model, name, samples.count, distance / scale if scale else np.inf, agreeing, distinct_alone, distinct_together
    )
