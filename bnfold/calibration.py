"""One model and the data it is for: batch norms get the mean and variance that their inputs have over all of it.

Each sees inputs that are normalised by statistics already estimated before it: those that do not depend on one another
are estimated in one pass over the data, those behind them in the next.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bnfold import __version__
from bnfold.arguments import require
from bnfold.calibrated import calibrated_record
from bnfold.check.datasets import sample_shapes
from bnfold.check.environment import environment
from bnfold.check.scaling import METADATA_KEY, ScalingOptions
from bnfold.data import DataSet, from_arrays, load
from bnfold.errors import UsageError
from bnfold.estimation import Estimate, Feeding, estimate
from bnfold.files.hashing import file_record, write_hashed
from bnfold.files.recognise import require_model
from bnfold.files.suffixes import require_fitting_name
from bnfold.files.writing import check_target, copy_of
from bnfold.formats.opening import lend_samples, open_model, open_statistics, wrap_model
from bnfold.idle import formats_at, idle_in_memory, idle_options, refuse
from bnfold.records import CalibrateReport, FileRecord
from bnfold.runtime.session import Array

if TYPE_CHECKING:
    from bnfold.formats.onnx.model import OnnxModel
    from bnfold.formats.onnx.statistics import OnnxStatistics
    from bnfold.formats.torch.export import ExportedModel
    from bnfold.formats.torch.factories import Factory
    from bnfold.formats.torch.inputs import GivenInputs
    from bnfold.formats.torch.module import TorchModel
    from bnfold.formats.torch.statistics import TorchStatistics

PathLike = str | os.PathLike[str]
Data = PathLike | Array | tuple[Array, Array]
Progress = Callable[[str, int, int], None]
"""Called now and then with what is being done, how much of it is done, and of how much."""


@dataclass(frozen=True, eq=False)
class CalibrateResult:
    """A model whose batch norms have population statistics, and the report on each."""

    report: CalibrateReport
    opened: OnnxModel | TorchModel | ExportedModel

    @property
    def model(self) -> Any:  # noqa: ANN401 - of the kind that was given
        """The model, in inference mode: a module, or an ``onnx.ModelProto``; for a path, what the file holds."""
        return self.opened.folded


def calibrate(
    model: object,
    data: Data,
    output: PathLike | None = None,
    *,
    inputs: GivenInputs = None,
    factory: Factory | None = None,
    trust_code: bool = False,
    key: str | None = None,
    refresh: bool = False,
    samples: int | None = None,
    batch: int | None = None,
    mean: float | None = None,
    std: float | None = None,
    scale: float | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> CalibrateResult:
    """Estimate population statistics for the batch norms of an ``nn.Module``, an ``onnx.ModelProto``, or a file.

    Batch norms that normalise with each batch's statistics get the mean and the unbiased variance of their input over
    the data; ``refresh`` re-estimates those that have some, too. ``data`` is ``mnist`` (the training images), an .npz
    file with ``x`` and labels ``y``, a directory with MNIST, an array of samples, or a pair of samples and labels;
    only the first ``samples`` are used. Raw pixels become (x / scale − mean) / std. Memory does not grow with the
    number of samples. ``output`` is where the model at a path is written to; an existing file needs ``force``. The
    other options are those of ``fold``.

    Returns a CalibrateResult: ``.model`` is of the kind that was given and in inference mode, ``.report`` says what
    the statistics were and are. What was given is not changed. Raises BnfoldError.
    """
    require(locals())
    path = Path(model) if isinstance(model, str | os.PathLike) else None
    given = {"factory": factory, "key": key, "trust_code": trust_code}
    refuse(idle_options(formats_at([path]), given, run=True) if path else idle_in_memory(given))
    target = _target(path, output, force=force)
    opened: OnnxModel | TorchModel | ExportedModel
    if path is None:
        opened, source = wrap_model(model, inputs=inputs), None
    else:
        opened = open_model(path, inputs=inputs, factory=factory, trust_code=trust_code, key=key)
        source = file_record(path, opened.format, external=opened.external)
    loaded = cache(partial(_loaded, data))  # read when they are wanted: a module wants to know what they look like
    lend_samples(opened, lambda: sample_shapes(loaded()))
    statistics = open_statistics(opened)
    chosen = _chosen(statistics, refresh=refresh)
    found = Estimate()
    if chosen:
        scaling = ScalingOptions(scale, mean, std)
        feeding = Feeding(loaded(), samples, batch, scaling, statistics.metadata(METADATA_KEY), inputs)
        found = estimate(statistics, chosen, feeding, progress)
        opened.describe({"bnfold.version": __version__} | ({"bnfold.source_sha256": source.sha256} if source else {}))
    else:
        statistics.finish()
    report = _report(statistics, found, source)
    if target is not None and path is not None:
        contents = opened.files(target) if chosen or opened.external else {target: copy_of(path)}
        written = write_hashed(contents, target, opened.format, force=force, inputs=[path, *opened.external])
        report = replace(report, output=written)
    return CalibrateResult(report, opened)


def _target(path: Path | None, output: PathLike | None, *, force: bool) -> Path | None:
    """Where the result goes, if it may; nothing is written for a model that was given as an object."""
    if output is None:
        return None
    if path is None:
        raise UsageError("there is no file to write a model in memory like", remedy="save the result's model yourself")
    target = Path(output)
    require_fitting_name(target, require_model(path), path)
    check_target(target, force=force, inputs=[path])
    return target


def _chosen(statistics: OnnxStatistics | TorchStatistics, *, refresh: bool) -> list[int]:
    """The batch norms that have no statistics, and with ``refresh`` the others too, unless they must be left."""
    return [
        index
        for index, stored in enumerate(statistics.batch_norms)
        if stored.is_missing or (refresh and not stored.left)
    ]


def _loaded(data: Data) -> DataSet:
    """The samples; of MNIST the training images, which the statistics were once taken from."""
    if isinstance(data, tuple):
        if len(data) != 2:  # noqa: PLR2004 - a pair
            raise UsageError(f"a tuple of {len(data)}: give samples, or a pair of samples and labels")
        return from_arrays(*map(_array, data))
    if not isinstance(data, str | os.PathLike):
        return from_arrays(_array(data))
    name = os.fspath(data)
    if name == "random":
        raise UsageError(
            "random inputs have other statistics than a network's own",
            remedy="give data like that which it was trained on: --data mnist, FILE.npz or DIR",
        )
    found = load(name, split="train")
    return replace(found, name="mnist, training images") if found.name == "mnist" else found


def _array(samples: object) -> Array:
    """Samples in memory, which may be another library's; UsageError where NumPy cannot see them."""
    try:
        return np.asarray(samples)
    except Exception as error:  # a tensor that requires gradients, or lies on a device, raises what its library likes
        raise UsageError(
            f"the samples are no array: {str(error).partition(chr(10))[0]}", remedy="give NumPy arrays"
        ) from error


def _report(
    statistics: OnnxStatistics | TorchStatistics, found: Estimate, source: FileRecord | None
) -> CalibrateReport:
    is_onnx = statistics.format == "onnx"
    samples = found.data.samples if found.data else 0
    records = tuple(
        calibrated_record(stored, found.populations.get(index), found.steps.get(index), samples)
        for index, stored in enumerate(statistics.batch_norms)
    )
    return CalibrateReport(
        version=__version__,
        source=source,
        environment=environment(("numpy", "onnx", "onnxruntime") if is_onnx else ("numpy", "torch")),
        data=found.data,
        steps=max(found.steps.values(), default=0),
        found=len(records),
        calibrated=len(found.populations),
        batch_norms=records,
        accuracy=found.accuracy,
        warnings=(*statistics.notes, *found.warnings),
    )
