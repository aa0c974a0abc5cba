"""dense32: two hidden layers of 32 with batch norm, beside the same network without.

Source: the TensorFlow batch-norm lab, "Batch Normalization" with Keras: the network, its training, and the two
findings in ``reproduce``: lower loss and higher accuracy with BN, and that a BN whose γ is √(σ² + ε) and whose β is μ
changes nothing. Written from the description; where that is silent, Keras' defaults stand (Glorot-uniform weights,
zero biases).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final, cast

import torch
from torch import nn

from sample_models.dense import in_torch
from sample_models.figures import Chart, Curve, Figure, Figures, percent
from sample_models.folding import folding_rows
from sample_models.jobs import Phase, Recipe, labels_of
from sample_models.numpy_bn.network import Shape
from sample_models.repeats import Run, curve, mean_accuracy, repeat
from sample_models.training import accuracy, fit, pixels

if TYPE_CHECKING:
    from bnfold.data import DataSet
    from sample_models.jobs import Job

RECIPE: Final = Recipe(phases=(Phase(10, 0.01),), batch=32)
SHAPE: Final = Shape(hidden=(32, 32), epsilon=1e-3, momentum=0.99)


def dense32() -> nn.Sequential:
    """The architecture, untrained: ``--model sample_models.dense32:dense32``."""
    return _initialised(SHAPE)


def train(job: Job) -> nn.Sequential:
    """Train as published."""
    return _trained(SHAPE, job)


def reproduce(trained: nn.Module, test: DataSet, job: Job) -> Figures:
    """Training with and without BN, and the BN that is the identity."""
    with_bn, without = (_runs(shape, test, job) for shape in (SHAPE, replace(SHAPE, epsilon=None)))
    return Figures(
        title="dense32 on MNIST (TensorFlow batch-norm lab)",
        rows=(
            Figure("test accuracy with BN", "higher", percent(mean_accuracy(with_bn))),
            Figure("… without BN", "", percent(mean_accuracy(without))),
            Figure("training loss of the last epoch with BN", "lower", f"{_last_loss(with_bn):.4f}"),
            Figure("… without BN", "", f"{_last_loss(without):.4f}"),
            Figure("γ = √(σ² + ε), β = μ: largest relative change", "none", f"{identity_error(trained, test):.1e}"),
            *folding_rows(trained, test),
        ),
        notes=("Means of 5 seeds; the figures show them between the extremes.",),
        charts=(
            Chart(
                title="accuracy",
                x_label="epoch",
                y_label="validation accuracy",
                curves=(curve("with BN", with_bn), curve("without BN", without)),
            ),
            Chart(
                title="loss",
                x_label="epoch",
                y_label="training loss",
                curves=(_loss_curve("with BN", with_bn), _loss_curve("without BN", without)),
            ),
        ),
    )


def identity_error(trained: nn.Module, test: DataSet) -> float:
    """How far the first BN is from the identity once γ is √(σ² + ε) and β is μ, relative to its largest input."""
    layers = cast("nn.Sequential", trained)
    bn = nn.BatchNorm1d(SHAPE.hidden[0], eps=cast("float", SHAPE.epsilon)).eval()
    bn.load_state_dict(layers.get_submodule("bn1").state_dict())
    mean, variance = bn.get_buffer("running_mean"), bn.get_buffer("running_var")
    with torch.inference_mode():
        bn.weight.copy_((variance + bn.eps).sqrt())
        bn.bias.copy_(mean)
        x = layers[:2](pixels(test.x))
        return float((bn(x) - x).abs().max() / x.abs().max())


def _initialised(shape: Shape) -> nn.Sequential:
    module = in_torch(shape)
    for layer in module:
        if isinstance(layer, nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
    return module


def _trained(shape: Shape, job: Job) -> nn.Sequential:
    torch.manual_seed(job.seed)
    module = _initialised(shape)
    fit(module, RECIPE, job)
    return module


def _runs(shape: Shape, test: DataSet, job: Job) -> tuple[Run, ...]:
    what = "without BN" if shape.epsilon is None else "with BN"
    return repeat(what, lambda one: accuracy(_trained(shape, one), test.x, labels_of(test)), job)


def _last_loss(runs: tuple[Run, ...]) -> float:
    return sum(run.epochs[-1].loss for run in runs) / len(runs)


def _loss_curve(label: str, runs: tuple[Run, ...]) -> Curve:
    losses = [[epoch.loss for epoch in run.epochs] for run in runs]
    return Curve.of_many(label, [epoch.number for epoch in runs[0].epochs], losses)
