"""Those who are told how far a training is, and images to train on that need no files."""

from __future__ import annotations

import numpy as np

from bnfold.data import DataSet
from sample_models.jobs import Epoch


class Silent:
    def step(self, done: int, of: int) -> None:
        pass

    def epoch(self, epoch: Epoch) -> None:
        pass

    def note(self, text: str) -> None:
        pass


class Heard:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.steps: list[tuple[int, int]] = []
        self.epochs: list[Epoch] = []
        self.notes: list[str] = []

    def step(self, done: int, of: int) -> None:
        self.steps.append((done, of))

    def epoch(self, epoch: Epoch) -> None:
        self.epochs.append(epoch)

    def note(self, text: str) -> None:
        self.notes.append(text)


def noise(count: int) -> DataSet:
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (count, 28, 28), np.uint8)
    return DataSet(name="noise", x=images, y=random.integers(0, 10, count), origin="generated", images=True)


def bright_or_dark(*, labelled: bool = True) -> DataSet:
    """Two classes that anything can learn: images whose left half is bright, and others."""
    labels = np.arange(200, dtype=np.uint8) % 2
    images = np.zeros((200, 28, 28), np.uint8)
    images[labels == 1, :, :14] = 255
    return DataSet(name="halves", x=images, y=labels if labelled else None, origin="generated", images=True)
