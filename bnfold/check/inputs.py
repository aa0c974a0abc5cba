"""Where a check's inputs come from, batch after batch: memory does not grow with the number of samples."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from bnfold.check.shapes import fixed_batch, known, with_sizes
from bnfold.errors import InputError, UsageError
from bnfold.records import DataRecord, InputSpec
from bnfold.runtime.session import Array, Feeds, TensorSpec, is_float, numpy_dtype

DEFAULT_BATCH = 32
DEFAULT_RANDOM_SAMPLES = 64


@dataclass(frozen=True, eq=False)
class Batch:
    """One run's inputs. Of its ``size`` rows the first ``samples`` count; the others fill up a fixed batch.

    ``labels`` is ``(samples,)``, or None where the data has none.
    """

    feeds: Feeds
    samples: int
    size: int
    labels: Array | None = None

    def trimmed(self, outputs: Mapping[str, Array]) -> dict[str, Array]:
        """``outputs`` without the rows that only fill up."""
        return {name: array[: self.samples] if self.has_rows(array) else array for name, array in outputs.items()}

    def has_rows(self, output: Array) -> bool:
        """Whether ``output`` has one row a sample: its dimension 0 is the batch."""
        return output.ndim > 0 and output.shape[0] == self.size


@dataclass(frozen=True)
class Source:
    """Inputs for a model: what they are, and a fresh pass over them with every call of ``batches``."""

    record: DataRecord
    batches: Callable[[], Iterator[Batch]]


def random_inputs(
    inputs: Sequence[TensorSpec],
    *,
    samples: int = DEFAULT_RANDOM_SAMPLES,
    batch: int = DEFAULT_BATCH,
    seed: int = 0,
    sizes: Sequence[InputSpec] = (),
) -> Source:
    """Random inputs: floats from N(0, 1), integers and booleans from {0, 1}; sample i is the same at every batch size.

    A free dimension 0 is the batch; other free dimensions take their size from ``sizes``, the user's ``--input``.

    Raises:
        UsageError: a size is missing or contradicts the model, or a count is not positive.
        InputError: there are no random values for an input's type.
    """
    check_counts(samples, batch)
    specs = tuple(known(spec) for spec in with_sizes(inputs, sizes))
    for spec in specs:
        _refuse_unknown_kind(spec)
    size = fixed_batch(specs) or batch
    record = DataRecord("random", samples, size, labelled=False, seed=seed)
    return Source(record, partial(_random_batches, specs, samples, size, seed))


def check_counts(samples: int | None, batch: int) -> None:
    """Raises UsageError unless both are positive; ``samples`` None stands for all there are."""
    for option, value in (("--samples", samples), ("--batch", batch)):
        if value is not None and value < 1:
            raise UsageError(f"{option} {value}: there must be at least one")


def _refuse_unknown_kind(spec: TensorSpec) -> None:
    dtype = numpy_dtype(spec.dtype)
    if not (is_float(dtype) or dtype.kind in "iub"):
        raise InputError(
            f"input {spec.name!r} is of type {spec.dtype}, for which there are no random values",
            remedy="random inputs are numbers and booleans",
        )


def _random_batches(specs: Sequence[TensorSpec], samples: int, size: int, seed: int) -> Iterator[Batch]:
    generators = [np.random.default_rng([seed, index]) for index in range(len(specs))]
    for start in range(0, samples, size):
        pairs = zip(specs, generators, strict=True)
        feeds = {spec.name: _random_array(spec, size, generator) for spec, generator in pairs}
        yield Batch(feeds, min(size, samples - start), size)


def _random_array(spec: TensorSpec, batch: int, generator: np.random.Generator) -> Array:
    dtype = numpy_dtype(spec.dtype)
    shape = [dim if isinstance(dim, int) else batch for dim in spec.shape or ()]
    values = generator.standard_normal(shape) if is_float(dtype) else generator.integers(0, 2, shape)
    return np.asarray(values).astype(dtype)
