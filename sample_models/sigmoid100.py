"""sigmoid100: two dense layers of 100 sigmoids, each behind a batch norm that a single image makes useless.

Source: S. Hallström (R2RT), "Implementing Batch Normalization in Tensorflow", r2rt.com, 2016: the network, its
training, 97.2 % on the test images, and the trap: with the statistics of the batch at test time, one image at a time,
every image is given one and the same class, because a batch of one is its own mean. Written from the description;
where that is silent, TensorFlow's defaults of the time stand (zero biases, the first 5,000 training images for
validation).

The source descends by 0.01 on the sum of 60 cross-entropies, which is 0.6 on their mean. Its 40,000 steps are 80
epochs of 500 here.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import nn

from sample_models.jobs import Job, Phase, Recipe, Solver
from sample_models.training import fit

RECIPE = Recipe(phases=(Phase(80, 0.6),), batch=60, draws=30_000, solver=Solver.GRADIENT_DESCENT)

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
    torch.manual_seed(job.seed)
    module = sigmoid100()
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
