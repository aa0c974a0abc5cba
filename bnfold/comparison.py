"""Two or more files side by side: are they the same network, and which is faster?"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from bnfold import __version__, arguments
from bnfold.arguments import require
from bnfold.check import bench as timing
from bnfold.check import verify as judging
from bnfold.check.datasets import dataset_inputs, sample_shapes
from bnfold.check.environment import environment
from bnfold.check.inputs import Source, random_inputs
from bnfold.check.scaling import METADATA_KEY, ScalingOptions
from bnfold.check.tolerance import Tolerances
from bnfold.data import DataSet
from bnfold.data import load as load_data
from bnfold.formats.opening import Opening
from bnfold.idle import idle_options, idle_with_data, refuse
from bnfold.records import BenchCase, BenchReport, VerifyReport
from bnfold.runtime.session import NoKernelError, Session, TensorSpec
from bnfold.sessions import Models

if TYPE_CHECKING:
    from bnfold.formats.torch.factories import Factory
    from bnfold.formats.torch.inputs import GivenInputs

PathLike = str | os.PathLike[str]
Tolerance = float | Mapping[str, float] | None
Progress = Callable[[str, int, int], None]
"""Called now and then with what is being done, how much of it is done, and of how much."""


def verify(
    original: PathLike,
    folded: PathLike,
    *,
    inputs: GivenInputs = None,
    factory: Factory | None = None,
    trust_code: bool = False,
    key: str | None = None,
    data: str = "random",
    samples: int | None = None,
    batch: int | None = None,
    seed: int = 0,
    atol: Tolerance = None,
    rtol: Tolerance = None,
    max_flips: int = 0,
    max_accuracy_drop: float | None = None,
    layers: bool = False,
    mean: float | None = None,
    std: float | None = None,
    scale: float | None = None,
    progress: Progress | None = None,
) -> VerifyReport:
    """Are the files at ``original`` and ``folded`` the same network? ``report.passed`` says so.

    Both run as written on the same inputs: ``data`` is ``random`` (floats from N(0, 1), integers 0 and 1, from
    ``seed``), ``mnist``, an .npz file with ``x`` and labels ``y``, or a directory with MNIST. Raw pixels become
    (x / scale − mean) / std. ``atol`` and ``rtol`` replace the tolerance of each output's dtype; a dict gives them by
    output name. ``max_flips`` predictions may change on labelled data, ``max_accuracy_drop`` is a fraction.
    ``layers`` compares inner values too, where both models have them: that shows where a difference begins.

    Raises BnfoldError where the comparison cannot be made; that the networks differ is a report, not an error.
    """
    require(locals(), data=arguments.data)
    opening = Opening(inputs=inputs, factory=factory, trust_code=trust_code, key=key)
    models = Models.at([Path(original), Path(folded)], opening)
    given = {"seed": seed, "mean": mean, "std": std, "scale": scale}
    labels = {"max_flips": max_flips, "max_accuracy_drop": max_accuracy_drop}
    refuse([*idle_options(models.formats, opening, run=True), *idle_with_data(data, given | labels)])
    dataset = None if data == "random" else load_data(data)
    if dataset is not None and inputs is None:
        models = replace(models, opening={**opening, "inputs": sample_shapes(dataset)})
    scaling = ScalingOptions(scale, mean, std)

    def judged(as_written: list[Session], as_deployed: list[Session] | None) -> judging.Verification:
        specs = as_written[0].inputs
        watched = stack.enter_context(models.watched()) if layers else []
        return judging.verify(
            judging.Pair(*as_written),
            _source(dataset, models, specs, samples=samples, batch=batch, seed=seed, scaling=scaling),
            as_deployed=judging.Pair(*as_deployed) if as_deployed else None,
            layers=judging.Pair(*watched) if watched else None,
            tolerances=Tolerances(_by_output(atol), _by_output(rtol)),
            max_flips=max_flips,
            max_accuracy_drop=max_accuracy_drop,
            progress=_labelled(progress, "verifying"),
        )

    with ExitStack() as stack:
        try:
            found = judged(models.as_written(), models.as_deployed())
        except NoKernelError:
            found = judged(models.in_reference(), None)
    source_record, output_record = models.records()
    return VerifyReport(
        version=__version__,
        source=source_record,
        output=output_record,
        environment=environment(models.packages()),
        data=found.data,
        as_written=found.as_written,
        as_deployed=found.as_deployed,
        accuracy=found.accuracy,
        layers=found.layers,
        batch_dependence=found.batch_dependence,
        passed=found.passed,
        warnings=(*found.warnings, *([_NOTHING_INSIDE] if layers and not found.layers else [])),
    )


_NOTHING_INSIDE = "the models have no inner value of one name that folding leaves as it is: --layers compared none"


def bench(
    original: PathLike,
    folded: PathLike,
    *more: PathLike,
    inputs: GivenInputs = None,
    factory: Factory | None = None,
    trust_code: bool = False,
    key: str | None = None,
    batch: int | Sequence[int] = (1, 32),
    runtime: str | Sequence[str] | None = None,
    threads: int | None = None,
    min_seconds: float = 1.0,
    fail_if_slower: float | None = None,
    progress: Progress | None = None,
) -> BenchReport:
    """Which of the files is faster? Each is timed in turn with ``original``, per runtime and batch size.

    ``runtime`` is ``ort`` (onnxruntime as deployed), ``ort-off`` (its optimisations off) or ``torch`` (eager), or
    several; the default is all that can run the files. ``batch`` is a number of samples, or several. Every case takes
    at least ``min_seconds``. ``fail_if_slower`` is a percentage: ``report.passed`` is False where a model is slower by
    more. Raises BnfoldError.
    """
    require(locals(), batch=arguments.batches)
    for path in more:
        require({"path": path})
    opening = Opening(inputs=inputs, factory=factory, trust_code=trust_code, key=key)
    models = Models.at([Path(original), Path(folded), *map(Path, more)], opening)
    refuse(idle_options(models.formats, opening, run=True))
    asked = (runtime,) if isinstance(runtime, str) else runtime

    def timed(name: str) -> tuple[BenchCase, ...]:
        """One runtime's cases; its sessions are gone before the next one's are opened."""
        sessions = models.timed(name, threads)
        return timing.bench(
            [timing.Candidate(str(path), session) for path, session in zip(models.paths, sessions, strict=True)],
            [batch] if isinstance(batch, int) else batch,
            optimises=name == "ort",
            effort=timing.Effort(min_seconds),
            sizes=models.sizes,
            progress=_labelled(progress, f"timing in {name}"),
        )

    with models.threads(threads):
        cases = tuple(case for name in asked or models.runtimes() for case in timed(name))
    first, *others = models.records()
    return BenchReport(
        version=__version__,
        source=first,
        outputs=tuple(others),
        environment=environment(models.packages(), threads=threads),
        cases=cases,
        fail_if_slower_percent=fail_if_slower,
        passed=fail_if_slower is None or timing.none_slower(cases, fail_if_slower),
    )


def _source(
    data: DataSet | None,
    models: Models,
    specs: Sequence[TensorSpec],
    *,
    samples: int | None,
    batch: int | None,
    seed: int,
    scaling: ScalingOptions,
) -> Source:
    """The data, or random inputs without any, shaped for a model with these inputs."""
    counts = {name: value for name, value in (("samples", samples), ("batch", batch)) if value is not None}
    sizes = models.sizes
    if data is None:
        return random_inputs(specs, seed=seed, sizes=sizes, **counts)
    metadata = models.metadata(METADATA_KEY)
    return dataset_inputs(specs, data, scaling=scaling, metadata=metadata, sizes=sizes, **counts)


def _by_output(given: Tolerance) -> dict[str | None, float]:
    """A tolerance by output; None, or an empty name, stands for all outputs."""
    if given is None:
        return {}
    if isinstance(given, Mapping):
        return {name or None: value for name, value in given.items()}
    return {None: given}


def _labelled(progress: Progress | None, label: str) -> Callable[[int, int], None] | None:
    return partial(progress, label) if progress else None
