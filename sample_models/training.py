"""Training a classifier on MNIST with PyTorch: what the networks of this package share.

The same seed gives the same weights on the same machine, with the same versions and number of threads; elsewhere
sums are taken in another order and the last bits differ.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, Optimizer, RMSprop

from sample_models.jobs import Epoch, Job, Recipe, Solver, labels_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from sample_models.jobs import Progress

_EVALUATION_BATCH = 1000

_OPTIMIZERS: Final[dict[Solver, Callable[..., Optimizer]]] = {
    Solver.ADAM: lambda parameters, lr: Adam(parameters, lr, fused=True),
    Solver.RMSPROP: RMSprop,
    Solver.GRADIENT_DESCENT: SGD,
}


def pixels(images: NDArray[Any]) -> Tensor:
    """Raw pixels uint8 ``(N, 28, 28)`` as the networks take them: float32 ``(N, 1, 28, 28)`` in [0, 1]."""
    return torch.from_numpy(images.astype(np.float32)).div_(255).unsqueeze(1)


def fit(module: nn.Module, recipe: Recipe, job: Job) -> None:
    """Train ``module`` in place and leave it in evaluation mode."""
    images, labels = job.data.x, labels_of(job.data)
    rates = recipe.learning_rates[: job.epochs]
    optimizer = _OPTIMIZERS[recipe.solver](module.parameters(), lr=rates[0])
    shuffle = torch.Generator().manual_seed(job.seed)
    trained_on = recipe.training_images(len(images))
    for number, rate in enumerate(rates, start=1):
        start = time.perf_counter()
        for group in optimizer.param_groups:
            group["lr"] = rate
        order = trained_on.start + torch.randperm(len(trained_on), generator=shuffle)
        batches = recipe.batches(order.numpy())
        loss = _train_epoch(module, optimizer, (images, torch.from_numpy(labels)), batches, job.progress)
        validation = accuracy(module, images[: recipe.validation], labels[: recipe.validation])
        job.progress.epoch(Epoch(number, len(rates), rate, loss, validation, time.perf_counter() - start))


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
    optimizer: Optimizer,
    data: tuple[NDArray[Any], Tensor],
    batches: list[NDArray[np.int64]],
    progress: Progress,
) -> float:
    """One pass over ``batches`` (indices into ``data``); the mean loss."""
    module.train()
    images, labels = data
    total = 0.0
    for done, batch in enumerate(batches, start=1):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(module(pixels(images[batch])), labels[batch])
        torch.autograd.backward(loss)
        optimizer.step()
        total += loss.item() * len(batch)
        progress.step(done, len(batches))
    return total / sum(len(batch) for batch in batches)
