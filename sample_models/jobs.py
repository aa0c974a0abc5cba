"""What a training is asked to do, and what it tells of itself, whichever package trains: NumPy only, no torch."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from bnfold.data import DataSet


class Solver(Enum):
    """How weights follow their gradients. What is not a recipe's own is each solver's usual setting."""

    ADAM = "Adam"
    RMSPROP = "RMSProp"
    GRADIENT_DESCENT = "gradient descent"


@dataclass(frozen=True)
class Phase:
    """Some epochs at one learning rate."""

    epochs: int
    learning_rate: float


@dataclass(frozen=True)
class Recipe:
    """How a network is trained on the mean cross-entropy of ``batch`` images at a time.

    The first ``validation`` images are not trained on, and of the others only ``images`` where that is set. An epoch
    is all of them, or ``draws`` of them, drawn anew each time: for sources that count steps.
    """

    phases: tuple[Phase, ...]
    batch: int
    validation: int = 5_000
    images: int | None = None
    draws: int | None = None
    solver: Solver = Solver.ADAM

    def __str__(self) -> str:
        phases = ", then ".join(f"{phase.epochs} epochs at {phase.learning_rate}" for phase in self.phases)
        epoch = f", {self.draws // self.batch} batches an epoch" if self.draws else ""
        images = f", on {self.images} images" if self.images else ""
        return f"{self.solver.value}, {phases}, batches of {self.batch}{epoch}{images}"

    @property
    def learning_rates(self) -> tuple[float, ...]:
        """One learning rate an epoch."""
        return tuple(phase.learning_rate for phase in self.phases for _ in range(phase.epochs))

    def training_images(self, available: int) -> range:
        """Which of ``available`` images are trained on."""
        return range(available)[self.validation :][: self.images]

    def batches(self, order: NDArray[np.int64]) -> list[NDArray[np.int64]]:
        """The batches of an epoch, for ``order``, the images that are trained on in random order."""
        drawn = order[: self.draws]
        return [drawn[start : start + self.batch] for start in range(0, len(drawn), self.batch)]


@dataclass(frozen=True)
class Epoch:
    """What an epoch came to. ``number`` counts from 1, ``of`` is how many there will be."""

    number: int
    of: int
    learning_rate: float
    loss: float
    validation_accuracy: float
    seconds: float


class Progress(Protocol):
    """Someone who is told how far the training is."""

    def step(self, done: int, of: int) -> None:
        """A batch has been trained on: ``done`` of ``of`` in this epoch."""
        ...

    def epoch(self, epoch: Epoch) -> None:
        """An epoch has ended."""
        ...

    def note(self, text: str) -> None:
        """One of several trainings has ended: what it came to, for people."""
        ...


@dataclass(frozen=True)
class Job:
    """What a network's ``train`` is given. ``epochs`` ends the training early, for a quick look; None: all of them."""

    data: DataSet
    progress: Progress
    seed: int = 0
    epochs: int | None = None


def labels_of(data: DataSet) -> NDArray[np.int64]:
    """The labels, which MNIST always has."""
    if data.y is None:
        raise ValueError(f"{data.name} has no labels to train on or to compare with")
    return data.y.astype(np.int64)
