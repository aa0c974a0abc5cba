"""Training a network of NumPy layers on MNIST. The same seed gives the same weights on the same machine."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sample_models.jobs import Epoch, Job, Recipe, labels_of
from sample_models.numpy_bn.network import INPUTS, Network
from sample_models.numpy_bn.solvers import SOLVERS

_EVALUATION_BATCH = 1000


def pixels(images: NDArray[Any]) -> NDArray[np.float32]:
    """Raw pixels uint8 ``(N, 28, 28)`` as the networks take them: float32 ``(N, 784)`` in [0, 1]."""
    return images.reshape(-1, INPUTS).astype(np.float32) / np.float32(255)


def fit(network: Network, recipe: Recipe, job: Job) -> None:
    """Train ``network`` in place."""
    images, labels = job.data.x, labels_of(job.data)
    rates = recipe.learning_rates[: job.epochs]
    solver = SOLVERS[recipe.solver]()
    shuffle = np.random.default_rng(job.seed)
    trained_on = recipe.training_images(len(images))
    for number, rate in enumerate(rates, start=1):
        start = time.perf_counter()
        batches = recipe.batches(shuffle.permutation(trained_on))
        total = 0.0
        for done, batch in enumerate(batches, start=1):
            total += network.loss(pixels(images[batch]), labels[batch]) * len(batch)
            solver.step(network.parameters, network.gradients, rate)
            job.progress.step(done, len(batches))
        loss = total / sum(map(len, batches))
        validation = accuracy(network, images[: recipe.validation], labels[: recipe.validation])
        job.progress.epoch(Epoch(number, len(rates), rate, loss, validation, time.perf_counter() - start))


def accuracy(network: Network, images: NDArray[Any], labels: NDArray[Any]) -> float:
    """The share of images that are classified as labelled, in test mode."""
    batches = range(0, len(images), _EVALUATION_BATCH)
    found = [network.forward(pixels(images[start : start + _EVALUATION_BATCH])).argmax(1) for start in batches]
    return float((np.concatenate(found) == labels).mean())
