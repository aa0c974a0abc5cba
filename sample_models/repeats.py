"""The same training with several seeds: what a mean is a mean of."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from sample_models.figures import Curve
from sample_models.jobs import Epoch, Job, Progress

SEEDS = 5


@dataclass(frozen=True)
class Run:
    """One training: its accuracy on the test images, what its epochs came to, and the processor's seconds."""

    accuracy: float
    epochs: tuple[Epoch, ...]
    cpu_seconds: float


class _Heard:
    """Keeps the epochs, and passes the steps on."""

    def __init__(self, listener: Progress) -> None:
        self.epochs: list[Epoch] = []
        self.step = listener.step
        self.note = listener.note

    def epoch(self, epoch: Epoch) -> None:
        self.epochs.append(epoch)


def repeat(what: str, train: Callable[[Job], float], job: Job) -> tuple[Run, ...]:
    """Train with five seeds from ``job.seed`` on; ``train`` returns the accuracy on the test images."""
    runs = []
    for seed in range(job.seed, job.seed + SEEDS):
        heard = _Heard(job.progress)
        start = time.process_time()
        accuracy = train(replace(job, seed=seed, progress=heard))
        run = Run(accuracy, tuple(heard.epochs), time.process_time() - start)
        job.progress.note(f"{what}, seed {seed}: test accuracy {run.accuracy:.4f}, {run.cpu_seconds:.1f} s")
        runs.append(run)
    return tuple(runs)


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
