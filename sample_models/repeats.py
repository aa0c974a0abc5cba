"""The same training with several seeds: what a mean is a mean of."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import get_context

import numpy as np

from sample_models.figures import Curve
from sample_models.jobs import Epoch, Job, Progress

SEEDS = 5
_THREADS = "OMP_NUM_THREADS"


@dataclass(frozen=True)
class Run:
    """One training: its accuracy on the test images, what its epochs came to, and the processor's seconds."""

    accuracy: float
    epochs: tuple[Epoch, ...]
    cpu_seconds: float


class _Heard:
    """Keeps the epochs, and passes the steps on where there is somebody to tell."""

    def __init__(self, listener: Progress | None = None) -> None:
        self.epochs: list[Epoch] = []
        self._listener = listener

    def step(self, done: int, of: int) -> None:
        if self._listener is not None:
            self._listener.step(done, of)

    def epoch(self, epoch: Epoch) -> None:
        self.epochs.append(epoch)

    def note(self, text: str) -> None:
        if self._listener is not None:
            self._listener.note(text)


def repeat(what: str, train: Callable[[Job], float], job: Job, *, side_by_side: bool = False) -> tuple[Run, ...]:
    """Train with five seeds from ``job.seed`` on; ``train`` returns the accuracy on the test images.

    ``side_by_side``: on as many processes as there are cores, for trainings that take minutes; ``train`` goes there
    by pickle.
    """
    listener = None if side_by_side else job.progress
    heard = [_Heard(listener) for _ in range(SEEDS)]
    jobs = [replace(job, seed=job.seed + offset, progress=each) for offset, each in enumerate(heard)]
    runs = []
    with _on_all_cores() if side_by_side else nullcontext() as pool:
        for one, run in zip(jobs, (pool.map if pool else map)(partial(_run, train), jobs, heard), strict=True):
            job.progress.note(f"{what}, seed {one.seed}: test accuracy {run.accuracy:.4f}, {run.cpu_seconds:.1f} s")
            runs.append(run)
    return tuple(runs)


@contextmanager
def _on_all_cores() -> Iterator[Executor]:
    """A process a core, each of which computes with one thread: what libraries of arithmetic read when they start."""
    before = os.environ.get(_THREADS)
    os.environ[_THREADS] = "1"
    try:
        with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
            yield pool
    finally:
        os.environ.pop(_THREADS)
        os.environ |= {} if before is None else {_THREADS: before}


def _run(train: Callable[[Job], float], job: Job, heard: _Heard) -> Run:
    """One training, which tells ``heard`` what it does."""
    start = time.process_time()
    accuracy = train(job)
    return Run(accuracy, tuple(heard.epochs), time.process_time() - start)


def mean_accuracy(runs: Sequence[Run]) -> float:
    """On the test images."""
    return float(np.mean([run.accuracy for run in runs]))


def cpu_seconds(runs: Sequence[Run]) -> float:
    """The processor's time for one of the trainings: the least of them, which other work disturbed least."""
    return min(run.cpu_seconds for run in runs)


def curve(label: str, runs: Sequence[Run], steps_an_epoch: int = 1) -> Curve:
    """Validation accuracy over epochs, or over steps: the mean of the runs between their extremes."""
    x = [epoch.number * steps_an_epoch for epoch in runs[0].epochs]
    return Curve.of_many(label, x, [[epoch.validation_accuracy for epoch in run.epochs] for run in runs])
