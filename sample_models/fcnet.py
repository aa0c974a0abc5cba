"""fcnet: five hidden layers, each with batch norm, trained by the batch norm in ``numpy_bn``; no framework trains it.

Source: Stanford's CS231n, assignment 2, the exercise "BatchNormalization": the network, its training, and the two
experiments in ``reproduce``. There on CIFAR-10, here on MNIST. Written from the description; nothing is copied. Our
choices: pixels in [0, 1] with no mean taken off, 5,000 images for validation, ten epochs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from sample_models.dense import export_by_hand, from_numpy, in_torch
from sample_models.figures import Chart, Curve, Figure, Figures, percent
from sample_models.folding import folding_rows
from sample_models.jobs import Phase, Recipe, labels_of
from sample_models.numpy_bn.network import Network, Shape, fully_connected
from sample_models.numpy_bn.training import accuracy, fit
from sample_models.repeats import Run, curve, repeat

if TYPE_CHECKING:
    from onnx import ModelProto
    from torch import nn

    from bnfold.data import DataSet
    from sample_models.jobs import Job

RECIPE: Final = Recipe(phases=(Phase(10, 1e-3),), batch=50, images=1_000)
SHAPE: Final = Shape(hidden=(100,) * 5, epsilon=1e-5)
WEIGHT_SCALE: Final = 2e-2
SCALES: Final = tuple(float(scale) for scale in np.logspace(-4, 0, 20))

_DEEP = (50,) * 7
_EPSILONS = (SHAPE.epsilon, None)


def fcnet() -> nn.Sequential:
    """The architecture, untrained: ``--model sample_models.fcnet:fcnet``."""
    return in_torch(SHAPE)


def train(job: Job) -> nn.Sequential:
    """Train as published, in NumPy."""
    return from_numpy(_trained(SHAPE, WEIGHT_SCALE, job), SHAPE)


def export(module: nn.Module) -> ModelProto:
    """ONNX by hand, each dense layer a Gemm."""
    return export_by_hand(module, SHAPE, "Gemm")


def reproduce(trained: nn.Module, test: DataSet, job: Job) -> Figures:
    """Both experiments: training with and without BN, and how far each depends on the scale of its first weights."""
    with_bn, without = (_runs(epsilon, SHAPE.hidden, WEIGHT_SCALE, test, job) for epsilon in _EPSILONS)
    best, best_without = (_over_scales(epsilon, test, job) for epsilon in _EPSILONS)
    return Figures(
        title="fcnet on 1,000 of MNIST's images (CS231n, assignment 2)",
        rows=(
            Figure("validation accuracy after 1 epoch, with BN", "trains faster", _after(with_bn, 0)),
            Figure("… without BN", "", _after(without, 0)),
            Figure("validation accuracy after 10 epochs, with BN", "", _after(with_bn, -1)),
            Figure("… without BN", "", _after(without, -1)),
            Figure("20 weight scales: BN is better at", "most", _better(best, best_without)),
            Figure("best validation accuracy of all scales, with BN", "higher", percent(max(best.y))),
            Figure("… without BN", "", percent(max(best_without.y))),
            Figure("worst of all scales, with BN", "depends far less", percent(min(best.y))),
            Figure("… without BN", "", percent(min(best_without.y))),
            *folding_rows(trained, test),
        ),
        notes=(
            "Means of 5 seeds; the figures show them between the extremes. The source trains on CIFAR-10, and of its "
            "curves only the ordering is compared.",
            _exceptions(best, best_without),
        ),
        charts=(
            Chart(
                title="5×100 hidden, weight scale 2e-2",
                x_label="epoch of 20 steps",
                y_label="validation accuracy",
                curves=(curve("with BN", with_bn), curve("without BN", without)),
            ),
            Chart(
                title="7×50 hidden, 10 epochs",
                x_label="scale of the first weights",
                y_label="best validation accuracy",
                curves=(best, best_without),
                log_x=True,
            ),
        ),
    )


def _trained(shape: Shape, weight_scale: float, job: Job) -> Network:
    network = fully_connected(shape, lambda _inputs: weight_scale, job.seed, np.float32)
    fit(network, RECIPE, job)
    return network


def _runs(
    epsilon: float | None, hidden: tuple[int, ...], weight_scale: float, test: DataSet, job: Job
) -> tuple[Run, ...]:
    shape = Shape(hidden, epsilon)
    what = f"{len(hidden)}×{hidden[0]} hidden, {_label(epsilon)}, weight scale {weight_scale:.1e}"
    return repeat(what, lambda one: accuracy(_trained(shape, weight_scale, one), test.x, labels_of(test)), job)


def _over_scales(epsilon: float | None, test: DataSet, job: Job) -> Curve:
    """The best validation accuracy of any epoch, for each scale of the first weights."""
    at_scales = [_runs(epsilon, _DEEP, scale, test, job) for scale in SCALES]
    best = [[max(epoch.validation_accuracy for epoch in run.epochs) for run in runs] for runs in at_scales]
    return Curve.of_many(_label(epsilon), SCALES, np.transpose(best).tolist())


def _better(best: Curve, best_without: Curve) -> str:
    count = sum(ours > theirs for ours, theirs in zip(best.y, best_without.y, strict=True))
    return f"{count} of {len(SCALES)}"


def _exceptions(best: Curve, best_without: Curve) -> str:
    """At which scales the source's ordering does not hold."""
    points = zip(best.x, best.y, best_without.y, strict=True)
    scales = [f"{scale:.2g}" for scale, ours, theirs in points if ours <= theirs]
    return f"BN is not better at the weight scales {', '.join(scales)}." if scales else "BN is better at every scale."


def _after(runs: tuple[Run, ...], epoch: int) -> str:
    return percent(float(np.mean([run.epochs[epoch].validation_accuracy for run in runs])))


def _label(epsilon: float | None) -> str:
    return "without BN" if epsilon is None else "with BN"
