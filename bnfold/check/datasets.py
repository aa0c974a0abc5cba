"""A data set as a model's inputs: shaped to the model's single input, and scaled where it holds raw pixels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from bnfold.check.inputs import DEFAULT_BATCH, Batch, Source, check_counts
from bnfold.check.scaling import Scaling, ScalingOptions, array_scaling, pixel_scaling
from bnfold.check.shapes import dimensions, fixed_batch, with_sizes
from bnfold.data.dataset import DataSet
from bnfold.errors import UsageError
from bnfold.records import DataRecord, InputSpec, SampleShapes
from bnfold.runtime.session import Array, TensorSpec, is_float, numpy_dtype


def dataset_inputs(
    inputs: Sequence[TensorSpec],
    data: DataSet,
    *,
    samples: int | None = None,
    batch: int = DEFAULT_BATCH,
    scaling: ScalingOptions = ScalingOptions(),  # noqa: B008 - frozen, hence safe to share
    metadata: str | None = None,
    sizes: Sequence[InputSpec] = (),
) -> Source:
    """The first ``samples`` of ``data`` (None: all of them) as inputs of a model with a single one.

    Raw pixels are scaled as ``scaling`` says, else as ``metadata`` (the model's ``bnfold.input``), else to [0, 1].
    Other arrays are fed as they are, unless ``scaling`` asks for more. A fixed batch is filled up with repetitions of
    the last sample; what those make of a model's outputs does not count.

    Raises:
        UsageError: there are no samples, they do not fit the model's input, or an option is out of range.
        InputError: ``metadata`` makes no scaling.
    """
    check_counts(samples, batch)
    if len(data.x) == 0:
        raise UsageError(f"the data {data.name!r} holds no samples", where=data.origin)
    spec = _single(with_sizes(inputs, sizes))
    chosen = pixel_scaling(scaling, metadata) if data.images else array_scaling(scaling)
    _refuse_other_kind(spec, data, scaled=chosen is not None)
    feeding = _Feeding(spec, _arrangement(spec, data.x.shape[1:]), chosen)
    count = len(data.x) if samples is None else min(samples, len(data.x))
    size = fixed_batch([spec]) or batch
    used = (chosen.scale, chosen.mean, chosen.std) if chosen else (None, None, None)
    record = DataRecord(data.name, count, size, data.y is not None, None, *used)
    return Source(record, partial(_batches, feeding, data, count, size))


@dataclass(frozen=True)
class _Feeding:
    """How samples become an array for ``spec``: each takes ``shape``, and is scaled unless ``scaling`` is None."""

    spec: TensorSpec
    shape: tuple[int, ...]
    scaling: Scaling | None

    def array(self, samples: Array) -> Array:
        shaped = samples.reshape(len(samples), *self.shape)
        values = self.scaling.apply(shaped) if self.scaling else shaped
        return values.astype(numpy_dtype(self.spec.dtype))


def _batches(feeding: _Feeding, data: DataSet, count: int, size: int) -> Iterator[Batch]:
    fixed = fixed_batch([feeding.spec]) is not None
    for start in range(0, count, size):
        stop = min(start + size, count)
        rows = np.minimum(np.arange(start, start + size if fixed else stop), count - 1)
        labels = None if data.y is None else data.y[start:stop]
        yield Batch({feeding.spec.name: feeding.array(data.x[rows])}, stop - start, len(rows), labels)


def _single(specs: Sequence[TensorSpec]) -> TensorSpec:
    if len(specs) != 1:
        raise UsageError(
            f"the data feeds one input, and the model has {len(specs)}",
            remedy="compare on random inputs: --data random",
        )
    return specs[0]


def _arrangement(spec: TensorSpec, sample: tuple[int, ...]) -> tuple[int, ...]:
    """The shape that a sample takes at ``spec``: its own; an image of (H, W) may take a channel, or lie flat."""
    possible = _possible_shapes(sample)
    for shape in possible:
        if spec.shape is None or _fits(spec.shape, shape):
            return shape
    choices = " or ".join("×".join(("N", *map(str, shape))) for shape in possible)
    raise UsageError(
        f"the samples do not fit input {spec.name!r}, which is {dimensions(spec.shape or ())}",
        remedy=f"they can be fed as {choices}; what a PyTorch model takes is said with --input",
    )


def _possible_shapes(sample: tuple[int, ...]) -> list[tuple[int, ...]]:
    """The shapes that a sample may take at an input, without the axis of samples; the likeliest first."""
    if len(sample) != 2:  # noqa: PLR2004 - height and width
        return [sample]
    height, width = sample
    return [(1, height, width), (height, width), (height, width, 1), (height * width,)]


def sample_shapes(data: DataSet) -> SampleShapes:
    """What a model may be fed with, two samples at a time: pixels as floats, other integers as they are, or floats."""
    is_whole = data.x.dtype.kind in "iub" and not data.images
    dtypes = (data.x.dtype.name, "float32") if is_whole else ("float32",)
    shapes = _possible_shapes(data.x.shape[1:])
    return SampleShapes(tuple(InputSpec((2, *shape), dtype) for dtype in dtypes for shape in shapes))


def _fits(dims: Sequence[int | str | None], sample: tuple[int, ...]) -> bool:
    return len(dims) == len(sample) + 1 and all(
        dim == size or not isinstance(dim, int) for dim, size in zip(dims[1:], sample, strict=True)
    )


def _refuse_other_kind(spec: TensorSpec, data: DataSet, *, scaled: bool) -> None:
    """Raises UsageError where the values would lose their meaning in ``spec``'s type."""
    target = numpy_dtype(spec.dtype)
    whole = not scaled and data.x.dtype.kind in "iub"
    if is_float(target) or (whole and target.kind in "iub"):
        return
    values = "scaled to fractions" if scaled else f"{data.x.dtype}"
    raise UsageError(
        f"input {spec.name!r} is {spec.dtype}, and the data is {values}",
        remedy="compare on random inputs: --data random",
    )
