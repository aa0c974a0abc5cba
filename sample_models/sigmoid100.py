"""sigmoid100: two dense layers of 100 sigmoids, each behind a batch norm that a single image makes useless.

Source: S. Pitis (R2RT), "Implementing Batch Normalization in Tensorflow", r2rt.com, 2016: the network, its
training, 97.2 % on the test images, and the trap: with the statistics of the batch at test time, one image at a time,
every image is given one and the same class, because a batch of one is its own mean. Written from the description;
where that is silent, TensorFlow's defaults of the time stand (zero biases, the first 5,000 training images for
validation).

The source descends by 0.01 on the sum of 60 cross-entropies, which is 0.6 on their mean. Its 40,000 steps are 80
epochs of 500 here.
"""

from __future__ import annotations

from collections import OrderedDict
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from sample_models.figures import Chart, Figure, Figures, percent
from sample_models.files import export, in_training_mode
from sample_models.folding import folding_rows
from sample_models.jobs import Phase, Recipe, Solver, labels_of
from sample_models.repeats import Run, curve, mean_accuracy, repeat
from sample_models.training import accuracy, fit, pixels

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from bnfold.data import DataSet
    from sample_models.jobs import Job

_STEPS = 500  # an epoch
_BATCH = 60
RECIPE = Recipe(phases=(Phase(80, 0.6),), batch=_BATCH, draws=_STEPS * _BATCH, solver=Solver.GRADIENT_DESCENT)

_EPSILON = 1e-3
_MOMENTUM = 0.001  # PyTorch counts what is new, TensorFlow what is kept: its decay 0.999


def sigmoid100() -> nn.Sequential:
    """The architecture, untrained: ``--model sample_models.sigmoid100:sigmoid100``."""
    return _network([_batch_norm(population=True), _batch_norm(population=True)])


def batch_statistics() -> nn.Sequential:
    """The form that is used as it was trained: ``--model sample_models.sigmoid100:batch_statistics``.

    Its BNs keep no statistics of the population and take those of whatever batch they are given.
    """
    return _network([_batch_norm(population=False), _batch_norm(population=False)])


def without_batch_norm() -> nn.Sequential:
    """The network beside it: no BNs, and biases, which a BN would have made redundant."""
    return _network([nn.Identity(), nn.Identity()], bias=True)


def train(job: Job) -> nn.Sequential:
    """Train as published."""
    return _trained(sigmoid100, job)


def reproduce(trained: nn.Module, test: DataSet, job: Job) -> Figures:
    """Training with and without BN, and the trap: the statistics of a batch of one."""
    with_bn, without = _runs("with BN", sigmoid100, test, job), _runs("without BN", without_batch_norm, test, job)
    alone, together = _with_batch_statistics(trained, test, images=100)
    return Figures(
        title="sigmoid100 on MNIST (Pitis 2016)",
        rows=(
            Figure("test accuracy with BN", "97.2 %", percent(mean_accuracy(with_bn))),
            Figure("… without BN", "lower", percent(mean_accuracy(without))),
            Figure("batch statistics, 100 images one at a time: classes", "1", str(len(set(alone)))),
            Figure("… of the 100 classified right", "", str((alone == labels_of(test)[:100]).sum())),
            Figure("… the same 100 together", "", str((together == labels_of(test)[:100]).sum())),
            *folding_rows(trained, test),
        ),
        notes=("Means of 5 seeds; the figures show them between the extremes. Batch statistics: in onnxruntime.",),
        charts=(
            Chart(
                title="40,000 steps of gradient descent",
                x_label="step",
                y_label="validation accuracy",
                curves=(curve("with BN", with_bn, _STEPS), curve("without BN", without, _STEPS)),
            ),
        ),
    )


def _runs(what: str, make: Callable[[], nn.Sequential], test: DataSet, job: Job) -> tuple[Run, ...]:
    return repeat(what, partial(_accuracy, make, test), job, side_by_side=True)


def _accuracy(make: Callable[[], nn.Sequential], test: DataSet, job: Job) -> float:
    return accuracy(_trained(make, job), test.x, labels_of(test))


def _with_batch_statistics(
    trained: nn.Module, test: DataSet, images: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The classes of the first test images, each ``(images,)``: one image at a time, and all together.

    In ONNX, because PyTorch refuses a batch of one in training mode.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    model = in_training_mode(export(trained)).SerializeToString()
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    def classes(batch: NDArray[np.float32]) -> NDArray[np.int64]:
        found: NDArray[np.int64] = session.run(["logits"], {"image": batch})[0].argmax(1)
        return found

    digits = pixels(test.x[:images]).numpy()
    return np.concatenate([classes(digits[index : index + 1]) for index in range(images)]), classes(digits)


def _trained(make: Callable[[], nn.Sequential], job: Job) -> nn.Sequential:
    torch.manual_seed(job.seed)
    module = make()
    fit(module, RECIPE, job)
    return module


def _batch_norm(*, population: bool) -> nn.BatchNorm1d:
    return nn.BatchNorm1d(100, eps=_EPSILON, momentum=_MOMENTUM, track_running_stats=population)


def _network(batch_norms: list[nn.Module], *, bias: bool = False) -> nn.Sequential:
    """28×28 → dense 100 → BN → sigmoid → dense 100 → BN → sigmoid → dense 10, every weight from N(0, 1)."""
    first, second = batch_norms
    layers: OrderedDict[str, nn.Module] = OrderedDict(
        flatten=nn.Flatten(),
        first=nn.Linear(784, 100, bias=bias),
        first_bn=first,
        first_sigmoid=nn.Sigmoid(),
        second=nn.Linear(100, 100, bias=bias),
        second_bn=second,
        second_sigmoid=nn.Sigmoid(),
        logits=nn.Linear(100, 10),
    )
    for layer in layers.values():
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    return nn.Sequential(layers)
