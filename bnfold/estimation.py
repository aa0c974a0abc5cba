"""A model and data at work: what goes into its batch norms, pass by pass, becomes their statistics."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from bnfold.check.accuracy import accuracy
from bnfold.check.datasets import dataset_inputs
from bnfold.check.examples import described_sizes
from bnfold.check.inputs import Source
from bnfold.check.population import Population, PopulationTally
from bnfold.check.scaling import ScalingOptions
from bnfold.core.verdict import channel_list
from bnfold.data import DataSet
from bnfold.errors import InputError, UsageError
from bnfold.records import CalibrationAccuracy, DataRecord
from bnfold.runtime.session import Session
from bnfold.unsaved import running, tapping

if TYPE_CHECKING:
    from bnfold.formats.onnx.statistics import OnnxStatistics
    from bnfold.formats.torch.inputs import GivenInputs
    from bnfold.formats.torch.statistics import TorchStatistics

Progress = Callable[[str, int, int], None]

MUCH = 0.01
"""A loss of accuracy, as a fraction, that new statistics should not cost."""


@dataclass(frozen=True, eq=False)
class Feeding:
    """The data, and how a model is fed with it."""

    data: DataSet
    samples: int | None
    batch: int | None
    scaling: ScalingOptions
    metadata: str | None
    inputs: GivenInputs

    def source(self, session: Session) -> Source:
        """Inputs for ``session``. UsageError where it has not exactly one, or the data does not fit it."""
        if len(session.inputs) != 1:
            raise UsageError(
                f"the data feeds one input, and the model has {len(session.inputs)}",
                remedy="calibrate the part of the model that has one input",
            )
        return dataset_inputs(
            session.inputs,
            self.data,
            samples=self.samples,
            scaling=self.scaling,
            metadata=self.metadata,
            sizes=described_sizes(self.inputs),
            **({} if self.batch is None else {"batch": self.batch}),
        )

    @property
    def doubts(self) -> tuple[str, ...]:
        """What speaks against these samples: that the first ones do not hold every class that the data has."""
        labels = self.data.y
        if labels is None or self.samples is None:
            return ()
        classes, used = len(np.unique(labels)), len(np.unique(labels[: self.samples]))
        if used >= min(classes, self.samples):
            return ()
        return (f"the first {self.samples:,} samples hold {used} of {classes} classes, and speak for these alone",)


@dataclass(frozen=True, eq=False)
class Estimate:
    """What the data said: by batch norm its population, and in which pass over the data that was seen, from 1 on."""

    populations: Mapping[int, Population] = field(default_factory=dict)
    steps: Mapping[int, int] = field(default_factory=dict)
    data: DataRecord | None = None
    accuracy: CalibrationAccuracy | None = None
    warnings: tuple[str, ...] = ()


def estimate(
    statistics: OnnxStatistics | TorchStatistics,
    chosen: Collection[int],
    feeding: Feeding,
    progress: Progress | None = None,
) -> Estimate:
    """Estimate and store the statistics of the ``chosen`` batch norms, of which there is at least one.

    Each sees inputs that are normalised by the statistics stored before: those that do not depend on one another are
    estimated in one pass over the data. Raises InputError where the model fails on the data, or what goes into a batch
    norm is not finite; UsageError where the data does not fit.
    """
    steps = {index: depth + 1 for index, depth in statistics.depths(chosen).items()}
    last = max(steps.values())
    before, troubles = _accuracy(statistics, feeding, _labelled(progress, "accuracy before"))
    populations: dict[int, Population] = {}
    for step in range(1, last + 1):
        group = [index for index in chosen if steps[index] == step]
        with tapping(statistics, group) as session:
            source = feeding.source(session)
            record, tallies = _tallied(session, source, _labelled(progress, f"pass {step} of {last}"))
        for index in group:
            populations[index] = tallies[statistics.tap(index)].result()
            _require_finite(statistics.batch_norms[index].name, populations[index])
            statistics.store(index, populations[index].mean, populations[index].variance)
    statistics.finish()
    after, more = _accuracy(statistics, feeding, _labelled(progress, "accuracy after"))
    found = None if before is None and after is None else CalibrationAccuracy(record.samples, before, after)
    doubts = (*feeding.doubts, *(troubles or more), *_doubts_of(before, after))
    return Estimate(populations, steps, record, found, doubts)


def _doubts_of(before: float | None, after: float | None) -> tuple[str, ...]:
    """What speaks against statistics that cost accuracy on the very data that they are of."""
    if before is None or after is None or before - after <= MUCH:
        return ()
    fell = f"accuracy fell from {100 * before:.2f} % to {100 * after:.2f} %"
    return (f"{fell}: are these samples like those of training, and scaled like them (--mean, --std, --scale)?",)


def _tallied(
    session: Session, source: Source, progress: Callable[[int, int], None] | None
) -> tuple[DataRecord, dict[str, PopulationTally]]:
    """One pass over the data: what was seen of each output. A fixed batch that has to be filled up is left out."""
    tallies = {spec.name: PopulationTally() for spec in session.outputs}
    samples = 0
    for batch in source.batches():
        if batch.samples < batch.size:
            break
        for name, values in session.run(batch.feeds).items():
            if values.ndim < 2:  # noqa: PLR2004 - samples and channels
                raise InputError(f"what goes into the batch norm {name!r} has no channels: its shape is {values.shape}")
            tallies[name].add(values)
        samples += batch.samples
        if progress is not None:
            progress(samples, source.record.samples)
    if not samples:
        raise UsageError(
            f"the model takes {source.record.batch} samples at a time, and there are {source.record.samples}",
            remedy=f"give at least {source.record.batch} samples",
        )
    return replace(source.record, samples=samples), tallies


def _accuracy(
    statistics: OnnxStatistics | TorchStatistics, feeding: Feeding, progress: Callable[[int, int], None] | None
) -> tuple[float | None, tuple[str, ...]]:
    """Top-1 accuracy of the model as it is now, where there are labels; a model that does not run yet has none."""
    if feeding.data.y is None:
        return None, ()
    try:
        with running(statistics) as session:
            return accuracy(session, feeding.source(session), progress), ()
    except InputError as error:
        return None, (f"accuracy was not measured: {error.what}",)


def _require_finite(name: str, population: Population) -> None:
    """InputError where NaN or infinities went into a batch norm."""
    broken = np.flatnonzero(~(np.isfinite(population.mean) & np.isfinite(population.variance)))
    if len(broken):
        raise InputError(
            f"NaN or Inf goes into the batch norm {name!r}: {channel_list([int(channel) for channel in broken])}",
            remedy="look at how the data is scaled (--mean, --std, --scale), and at the layers before it",
        )


def _labelled(progress: Progress | None, label: str) -> Callable[[int, int], None] | None:
    return partial(progress, label) if progress else None
