"""Are two models the same network? The orchestration: run both on the same inputs, compare, judge."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bnfold.check import Progress
from bnfold.check.accuracy import AccuracyTally
from bnfold.check.compare import Comparer
from bnfold.check.dependence import batch_dependence
from bnfold.check.inputs import Batch, Source
from bnfold.check.shapes import dimensions
from bnfold.check.tolerance import Tolerances, moved_by_one_ulp
from bnfold.errors import UsageError
from bnfold.records import AccuracyRecord, BatchDependence, Comparison, DataRecord, LayerError
from bnfold.runtime.session import Array, Session, TensorSpec

_NO_TOLERANCES = Tolerances()
_DIRECTIONS_SEED = 0


@dataclass(frozen=True)
class Pair:
    """Two models in runtimes that are configured alike."""

    original: Session
    folded: Session

    @property
    def label(self) -> str:
        """The runtime of both, for people."""
        labels = dict.fromkeys((self.original.label, self.folded.label))
        return " against ".join(labels)


@dataclass(frozen=True)
class Verification:
    """What was measured and judged: the part of a VerifyReport that does not depend on files."""

    data: DataRecord
    as_written: Comparison
    as_deployed: Comparison | None
    accuracy: AccuracyRecord | None
    layers: tuple[LayerError, ...]
    passed: bool
    warnings: tuple[str, ...]
    batch_dependence: tuple[BatchDependence, ...] = ()


def verify(
    as_written: Pair,
    source: Source,
    *,
    as_deployed: Pair | None = None,
    layers: Pair | None = None,
    tolerances: Tolerances = _NO_TOLERANCES,
    max_flips: int = 0,
    max_accuracy_drop: float | None = None,
    progress: Progress | None = None,
) -> Verification:
    """Run both models on every batch of ``source`` and judge.

    ``as_written`` decides, with the flips where there are labels; ``as_deployed`` only warns. ``layers`` are the same
    two models with inner values as their outputs: values of the same name, shape and type are compared, without a
    verdict.

    Raises:
        UsageError: ``tolerances`` name an output that the original does not have.
        InputError: a model fails on the inputs.
    """
    _refuse_unknown_names(tolerances, as_written.original.outputs)
    unlike = _unlike_inputs(as_written)
    if unlike:
        comparison = Comparison(as_written.label, (), passed=False, differences=unlike)
        return Verification(source.record, comparison, None, None, (), passed=False, warnings=())
    run = _Run(as_written, as_deployed, layers)
    done = 0
    for batch in source.batches():
        run.add(batch)
        done += batch.samples
        if progress is not None:
            progress(done, source.record.samples)
    comparison, deployed = run.comparisons(tolerances)
    accuracy = run.accuracy.result(max_flips, max_accuracy_drop)
    is_asked = bool(max_flips) or max_accuracy_drop is not None
    unjudged = [_WITHOUT_LABELS] if is_asked and not source.record.labelled else []
    dependence = run.batch_dependence(source)
    return Verification(
        data=source.record,
        as_written=comparison,
        as_deployed=deployed,
        accuracy=accuracy,
        layers=run.layer_errors(),
        passed=comparison.passed and (accuracy is None or accuracy.passed),
        warnings=(*unjudged, *run.doubts(comparison), *_deployment_warnings(deployed), *_traps(dependence)),
        batch_dependence=dependence,
    )


_WITHOUT_LABELS = "the data has no labels: neither flips nor accuracy were judged (--max-flips, --max-accuracy-drop)"


class _Run:
    """What one pass over the inputs gathers."""

    def __init__(self, as_written: Pair, as_deployed: Pair | None, layers: Pair | None) -> None:
        self.accuracy = AccuracyTally()
        self._written = _Compared(as_written)
        self._deployed = _Compared(as_deployed) if as_deployed else None
        self._layers = _Compared(layers) if layers else None
        self._directions = np.random.default_rng(_DIRECTIONS_SEED)
        self._unscored = False

    def add(self, batch: Batch) -> None:
        """Run every model on ``batch``; one batch's values are all that is held at a time."""
        original, folded = self._written.add(batch)
        if batch.labels is not None:
            self._unscored |= not self.accuracy.add(original, folded, batch.labels)
        moved = moved_by_one_ulp(batch.feeds, self._directions)
        if moved is not None:
            self._written.comparer.add_moved(original, batch.trimmed(self._written.pair.original.run(moved)))
        for compared in (self._deployed, self._layers):
            if compared is not None:
                compared.add(batch)

    def comparisons(self, tolerances: Tolerances) -> tuple[Comparison, Comparison | None]:
        """As written and as deployed. Rounding is the network's own affair, and taken from the models as written."""
        rounding = self._written.comparer.rounding_errors()
        written = self._written.comparer.result(tolerances, rounding)
        return written, self._deployed.comparer.result(tolerances, rounding) if self._deployed else None

    def batch_dependence(self, source: Source) -> tuple[BatchDependence, ...]:
        """The models, as written, whose output for a sample depends on the others of its batch."""
        rounding = self._written.comparer.rounding_errors()
        original, folded = self._written.pair.original, self._written.pair.folded
        found = (
            batch_dependence("original", original, source, rounding),
            batch_dependence("folded", folded, source, rounding),
        )
        return tuple(item for item in found if item is not None)

    def layer_errors(self) -> tuple[LayerError, ...]:
        """In the order of the original's graph."""
        if self._layers is None:
            return ()
        comparison = self._layers.comparer.result(_NO_TOLERANCES, {})
        return tuple(LayerError(item.name, item.max_abs_error, item.relative_error) for item in comparison.outputs)

    def doubts(self, comparison: Comparison) -> list[str]:
        """What makes the verdict say less than it seems to."""
        doubts = self._written.comparer.doubts(comparison)
        if self._unscored:
            doubts.append("no output holds one row of scores a label: accuracy was not compared")
        if self.accuracy.classless:
            doubts.append(f"{self.accuracy.classless:,} labels name no class of the model: they count as wrong")
        return doubts


class _Compared:
    """A pair of models and what was seen of their outputs."""

    def __init__(self, pair: Pair) -> None:
        self.pair = pair
        self.comparer = Comparer(pair.label)

    def add(self, batch: Batch) -> tuple[dict[str, Array], dict[str, Array]]:
        """Run both on ``batch`` and compare; the outputs of the original and of the folded model."""
        original = batch.trimmed(self.pair.original.run(batch.feeds))
        folded = batch.trimmed(self.pair.folded.run(batch.feeds))
        self.comparer.add(original, folded, rows=batch.samples)
        return original, folded


def _refuse_unknown_names(tolerances: Tolerances, outputs: Sequence[TensorSpec]) -> None:
    names = [spec.name for spec in outputs]
    for name in sorted(tolerances.names()):
        if name not in names:
            raise UsageError(
                f"a tolerance is given for {name!r}, which is no output of the original",
                remedy=f"its outputs are {', '.join(map(repr, names))}",
            )


def _unlike_inputs(pair: Pair) -> tuple[str, ...]:
    """Statements on inputs that only one model has, or that are of another type or size in the other."""
    original = {spec.name: spec for spec in pair.original.inputs}
    folded = {spec.name: spec for spec in pair.folded.inputs}
    missing = [f"the folded model has no input {name!r}" for name in original if name not in folded]
    added = [f"the original model has no input {name!r}" for name in folded if name not in original]
    changed = [
        f"input {name!r} is {_described(spec)} in the original and {_described(folded[name])} in the folded model"
        for name, spec in original.items()
        if name in folded and not _alike(spec, folded[name])
    ]
    return (*missing, *added, *changed)


def _alike(a: TensorSpec, b: TensorSpec) -> bool:
    """Whether the same array can be fed to both: sizes that one of them leaves free do not count."""
    if a.dtype != b.dtype or a.shape is None or b.shape is None:
        return a.dtype == b.dtype
    return len(a.shape) == len(b.shape) and all(
        x == y or not (isinstance(x, int) and isinstance(y, int)) for x, y in zip(a.shape, b.shape, strict=True)
    )


def _described(spec: TensorSpec) -> str:
    return f"{spec.dtype} {'of any shape' if spec.shape is None else dimensions(spec.shape)}"


def _traps(found: Sequence[BatchDependence]) -> list[str]:
    """What is wrong with models whose predictions depend on the batch, and what to do."""
    if not found:
        return []
    names = " and ".join(item.model for item in found)
    return [
        f"a sample's output depends on the other samples of its batch ({names}); where batch norms take each batch's "
        "statistics, bnfold calibrate MODEL --data DATA -o OUT gives them those of your data"
    ]


def _deployment_warnings(comparison: Comparison | None) -> list[str]:
    if comparison is None or comparison.passed:
        return []
    apart = [
        f"output {item.name!r} is {item.relative_error:.1e} of its scale away"
        if item.same_nan and item.same_inf
        else f"output {item.name!r} has NaN or Inf in other places"
        for item in comparison.outputs
        if not item.passed
    ]
    reasons = "; ".join((*comparison.differences, *apart))
    return [f"as deployed ({comparison.runtime}) the models differ: {reasons}"]
