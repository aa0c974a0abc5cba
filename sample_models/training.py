"""Training a classifier on MNIST with PyTorch: what the networks of this package share.

The same seed gives the same weights on the same machine, with the same versions and number of threads; elsewhere
sums are taken in another order and the last bits differ.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from bnfold.data import DataSet

_EVALUATION_BATCH = 1000


@dataclass(frozen=True)
class Phase:
    """Some epochs at one learning rate."""

    epochs: int
    learning_rate: float


@dataclass(frozen=True)
class Recipe:
    """How a network is trained: Adam on cross-entropy. The first ``validation`` images are not trained on."""

    phases: tuple[Phase, ...]
    batch: int
    validation: int = 5_000

    @property
    def learning_rates(self) -> tuple[float, ...]:
        """One learning rate an epoch."""
        return tuple(phase.learning_rate for phase in self.phases for _ in range(phase.epochs))


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


@dataclass(frozen=True)
class Job:
    """What a network's ``train`` is given. ``epochs`` ends the training early, for a quick look; None: all of them."""

    data: DataSet
    progress: Progress
    seed: int = 0
    epochs: int | None = None


def pixels(images: NDArray[Any]) -> Tensor:
    """Raw pixels uint8 ``(N, 28, 28)`` as the networks take them: float32 ``(N, 1, 28, 28)`` in [0, 1]."""
    return torch.from_numpy(images.astype(np.float32)).div_(255).unsqueeze(1)


def fit(module: nn.Module, recipe: Recipe, job: Job) -> None:
    """Train ``module`` in place and leave it in evaluation mode."""
    images, labels = job.data.x, labels_of(job.data)
    rates = recipe.learning_rates[: job.epochs]
    optimizer = torch.optim.Adam(module.parameters(), lr=rates[0], fused=True)
    shuffle = torch.Generator().manual_seed(job.seed)
    for number, rate in enumerate(rates, start=1):
        start = time.perf_counter()
        for group in optimizer.param_groups:
            group["lr"] = rate
        order = recipe.validation + torch.randperm(len(images) - recipe.validation, generator=shuffle)
        loss = _train_epoch(
            module, optimizer, (images, torch.from_numpy(labels)), _batches(order, recipe.batch), job.progress
        )
        validation = accuracy(module, images[: recipe.validation], labels[: recipe.validation])
        job.progress.epoch(Epoch(number, len(rates), rate, loss, validation, time.perf_counter() - start))


def labels_of(data: DataSet) -> NDArray[np.int64]:
    """The labels, which MNIST always has."""
    if data.y is None:
        raise ValueError(f"{data.name} has no labels to train on or to compare with")
    return data.y.astype(np.int64)


def predictions(module: nn.Module, images: NDArray[Any]) -> NDArray[np.int64]:
    """The most likely class of each image, ``(N,)``, with the module in evaluation mode."""
    module.eval()
    with torch.inference_mode():
        batches = range(0, len(images), _EVALUATION_BATCH)
        found = [module(pixels(images[start : start + _EVALUATION_BATCH])).argmax(1) for start in batches]
    classes: NDArray[np.int64] = torch.cat(found).numpy()
    return classes


def accuracy(module: nn.Module, images: NDArray[Any], labels: NDArray[Any]) -> float:
    """The share of images that are classified as labelled."""
    return float((predictions(module, images) == labels).mean())


def _train_epoch(
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    data: tuple[NDArray[Any], Tensor],
    batches: list[Tensor],
    progress: Progress,
) -> float:
    """One pass over ``batches`` (indices into ``data``); the mean loss."""
    module.train()
    images, labels = data
    total = 0.0
    for done, batch in enumerate(batches, start=1):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(module(pixels(images[batch.numpy()])), labels[batch])
        torch.autograd.backward(loss)
        optimizer.step()
        total += loss.item() * len(batch)
        progress.step(done, len(batches))
    return total / sum(len(batch) for batch in batches)


def _batches(order: Tensor, size: int) -> list[Tensor]:
    return [order[start : start + size] for start in range(0, len(order), size)]
