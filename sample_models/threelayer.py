"""threelayer: two hidden layers of 256 with batch norm and dropout, trained by the batch norm in ``numpy_bn``.

Source: A. Kristiadi (wiseodd), "Implementing BatchNorm in Neural Net", wiseodd.github.io, 2016: the network, its
training, and the figures in ``reproduce``. Written from the description; nothing is copied. What it leaves open we
chose: dropout after each hidden ReLU; weights N(0, 2/inputs), which it calls Xavier/2, a learning rate of 1e-3 for
them, and none of the pixels' mean taken off.

The source's 1,000 steps are ten epochs of 100 here.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from sample_models.dense import export_by_hand, from_numpy, in_torch
from sample_models.figures import Chart, Figure, Figures, percent
from sample_models.folding import folding_rows
from sample_models.jobs import Phase, Recipe, Solver, labels_of
from sample_models.numpy_bn.network import Network, Shape, fully_connected
from sample_models.numpy_bn.training import accuracy, fit
from sample_models.repeats import Run, cpu_seconds, curve, mean_accuracy, repeat

if TYPE_CHECKING:
    from onnx import ModelProto
    from torch import nn

    from bnfold.data import DataSet
    from sample_models.jobs import Job

RECIPE: Final = Recipe(phases=(Phase(10, 1e-3),), batch=256, draws=25_600)
SHAPE: Final = Shape(hidden=(256, 256), epsilon=1e-8, dropout=0.5)


class _Arm(NamedTuple):
    """One network of the comparison. ``wide``: its weights are from N(0, 1), and not Xavier/2."""

    what: str
    wide: bool
    shape: Shape
    recipe: Recipe


_WIDE: Final = replace(RECIPE, phases=(Phase(10, 1e-2),))
_RMSPROP: Final = replace(RECIPE, solver=Solver.RMSPROP)
_BATCH_NORM: Final = replace(SHAPE, dropout=0.0)
_DROPOUT: Final = replace(SHAPE, epsilon=None)
_NEITHER: Final = replace(SHAPE, epsilon=None, dropout=0.0)

_WIDE_ARMS: Final = (
    _Arm("BN and dropout", wide=True, shape=SHAPE, recipe=_WIDE),
    _Arm("dropout", wide=True, shape=_DROPOUT, recipe=_WIDE),
    _Arm("BN", wide=True, shape=_BATCH_NORM, recipe=_WIDE),
    _Arm("neither", wide=True, shape=_NEITHER, recipe=_WIDE),
)
_XAVIER_ARMS: Final = (
    _Arm("BN", wide=False, shape=_BATCH_NORM, recipe=_RMSPROP),
    _Arm("dropout", wide=False, shape=_DROPOUT, recipe=_RMSPROP),
    _Arm("neither", wide=False, shape=_NEITHER, recipe=_RMSPROP),
)


def threelayer() -> nn.Sequential:
    """The architecture, untrained: ``--model sample_models.threelayer:threelayer``."""
    return in_torch(SHAPE)


def train(job: Job) -> nn.Sequential:
    """Train as published, in NumPy."""
    return from_numpy(_trained(_Arm("BN and dropout", wide=False, shape=SHAPE, recipe=RECIPE), job), SHAPE)


def export(module: nn.Module) -> ModelProto:
    """ONNX by hand, each dense layer a MatMul and an Add."""
    return export_by_hand(module, SHAPE, "MatMul")


def reproduce(trained: nn.Module, test: DataSet, job: Job) -> Figures:
    """The source's two comparisons, and what BN costs."""
    wide = {arm.what: _runs(arm, test, job) for arm in _WIDE_ARMS}
    xavier = {arm.what: _runs(arm, test, job) for arm in _XAVIER_ARMS}
    cost = cpu_seconds(xavier["BN"]) / cpu_seconds(xavier["neither"]) - 1
    gain = mean_accuracy(wide["BN"]) - mean_accuracy(wide["neither"])
    found = sorted(xavier, key=lambda what: mean_accuracy(xavier[what]), reverse=True)
    return Figures(
        title="threelayer on MNIST (Kristiadi 2016)",
        rows=(
            _row("weights N(0, 1), Adam 1e-2: BN and dropout", "88.5 %", wide["BN and dropout"]),
            _row("… dropout", "13.9 %", wide["dropout"]),
            _row("… BN", "", wide["BN"]),
            _row("… neither", "", wide["neither"]),
            _row("weights Xavier/2, RMSProp 1e-3: BN", "97.4 %", xavier["BN"]),
            _row("… dropout", "96.9 %", xavier["dropout"]),
            _row("… neither", "96.4 %", xavier["neither"]),
            Figure("training time that BN adds", "about 30 %", f"{cost:.0%}".replace("%", " %")),
            *folding_rows(trained, test),
        ),
        notes=(
            "Accuracy on the test images, means of 5 seeds; the figures show the validation images' between the "
            "extremes. Time: the processor's, for the quickest of each five.",
            "With weights N(0, 1) the source's gap shows where there is dropout, as in its network; without dropout BN "
            f"gains {100 * gain:.1f} points.",
            f"Ordering with weights Xavier/2: the source's is BN > dropout > neither, ours {' > '.join(found)}.",
        ),
        charts=(_chart("weights N(0, 1), Adam 1e-2", wide), _chart("weights Xavier/2, RMSProp 1e-3", xavier)),
    )


def _trained(arm: _Arm, job: Job) -> Network:
    def weight_scale(inputs: int) -> float:
        return 1.0 if arm.wide else math.sqrt(2 / inputs)

    network = fully_connected(arm.shape, weight_scale, job.seed, np.float32)
    fit(network, arm.recipe, job)
    return network


def _runs(arm: _Arm, test: DataSet, job: Job) -> tuple[Run, ...]:
    what = f"{'N(0, 1)' if arm.wide else 'Xavier/2'}, {arm.what}"
    return repeat(what, lambda one: accuracy(_trained(arm, one), test.x, labels_of(test)), job)


def _row(what: str, published: str, runs: tuple[Run, ...]) -> Figure:
    return Figure(what, published, percent(mean_accuracy(runs)))


def _chart(title: str, arms: dict[str, tuple[Run, ...]]) -> Chart:
    return Chart(
        title=title,
        x_label="step",
        y_label="validation accuracy",
        curves=tuple(curve(what, runs, steps_an_epoch=100) for what, runs in arms.items()),
    )
