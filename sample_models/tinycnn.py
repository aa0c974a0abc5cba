"""tinycnn: one convolution and two dense layers, each batch norm a layer's nearest neighbour. 99 % on MNIST.

Source: A. Ibarrondo, M. Önen, "FHE-compatible Batch Normalization for Privacy Preserving Deep Learning", Data Privacy
Management 2018: the network, its training, and the published figures in ``reproduce``. Written from the description;
where that is silent, TensorFlow's defaults of the time stand (Glorot-uniform weights, running statistics with momentum
0.99, the first 5,000 training images for validation).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from sample_models.figures import Chart, Curve, Figure, Figures, paired_medians_ms, percent
from sample_models.folding import batch_norms, folded, unchanged_rows
from sample_models.jobs import Job, Phase, Recipe
from sample_models.training import fit, pixels, predictions

if TYPE_CHECKING:
    from bnfold.data import DataSet

RECIPE = Recipe(phases=(Phase(5, 0.01), Phase(5, 0.002)), batch=128, validation=5_000)

_EPSILON = 1e-3
_MOMENTUM = 0.01  # PyTorch counts what is new, TensorFlow what is kept: its 0.99


class TinyCNN(nn.Module):
    """28×28 → conv 20 kernels 5×5 → BN → ReLU → dense 1000 → BN → ReLU → dense 10.

    Takes images ``(N, 1, 28, 28)`` in [0, 1] and returns logits ``(N, 10)``. ``mean``, the training images' mean
    pixel, is subtracted first. With ``batch_norm=False`` the same network without its BNs, and with the same names
    for all that remains.
    """

    mean: Tensor

    def __init__(self, *, batch_norm: bool = True) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(()))
        self.conv = nn.Conv2d(1, 20, kernel_size=5, padding="same")
        self.conv_bn = nn.BatchNorm2d(20, eps=_EPSILON, momentum=_MOMENTUM) if batch_norm else nn.Identity()
        self.dense = nn.Linear(20 * 28 * 28, 1000)
        self.dense_bn = nn.BatchNorm1d(1000, eps=_EPSILON, momentum=_MOMENTUM) if batch_norm else nn.Identity()
        self.logits = nn.Linear(1000, 10)
        for layer in (self.conv, self.dense, self.logits):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.get_parameter("bias"))

    def forward(self, image: Tensor) -> Tensor:
        """Logits ``(N, 10)``."""
        features = torch.relu(self.conv_bn(self.conv(image - self.mean)))
        hidden = torch.relu(self.dense_bn(self.dense(features.flatten(1))))
        logits: Tensor = self.logits(hidden)
        return logits


def tinycnn() -> TinyCNN:
    """The architecture, untrained: ``--model sample_models.tinycnn:tinycnn``."""
    return TinyCNN()


def train(job: Job) -> TinyCNN:
    """Train as published; the training images' mean is taken from the images that are trained on."""
    torch.manual_seed(job.seed)
    module = tinycnn()
    module.mean.fill_(float(job.data.x[RECIPE.validation :].mean() / 255))
    fit(module, RECIPE, job)
    return module


def reproduce(trained: nn.Module, test: DataSet, job: Job, *, rounds: int = 30) -> Figures:
    """The notebook's table: what folding keeps, and what is lost when the BNs are merely dropped.

    ``rounds`` is how often each network is timed.
    """
    torch.manual_seed(job.seed)
    untrained = TinyCNN(batch_norm=False)
    dropped = TinyCNN(batch_norm=False)
    dropped.load_state_dict({name: trained.state_dict()[name] for name in dropped.state_dict()})
    thousand = pixels(test.x[:1000])
    without = folded(trained, test)
    found = {model: predictions(model, test.x) for model in (trained, untrained, dropped, without)}
    share = {model: float((classes == test.y).mean()) for model, classes in found.items()}
    right = {model: percent(of_all) for model, of_all in share.items()}
    flips = (found[trained] != found[without]).sum()
    with torch.inference_mode():
        before_ms, after_ms = paired_medians_ms(lambda: trained(thousand), lambda: without(thousand), rounds)
    return Figures(
        title="tinycnn on MNIST's test images (Ibarrondo & Önen 2018)",
        rows=(
            Figure("with BN", "99.02 %", right[trained]),
            Figure("without BN, untrained", "13.6 %", right[untrained]),
            Figure("without BN, weights not folded", "68.54 %", right[dropped]),
            Figure("without BN, weights folded", "99.02 %", right[without]),
            *unchanged_rows(flips, len(test), batch_norms(trained), batch_norms(without)),
            Figure("time for 1,000 images", "48.1 → 38.2 ms", f"{before_ms:.1f} → {after_ms:.1f} ms"),
        ),
        notes=(f"Time: PyTorch eager, {torch.get_num_threads()} threads, medians of {rounds} runs in turn.",),
        charts=(_bars([share[model] for model in (trained, untrained, dropped, without)]),),
    )


def _bars(ours: list[float]) -> Chart:
    """The published accuracies beside ours."""
    ticks = ("with BN", "without BN,\nuntrained", "without BN,\nnot folded", "without BN,\nfolded")
    return Chart(
        title="accuracy on the test images",
        x_label="",
        y_label="accuracy",
        curves=tuple(
            Curve.of_many(label, range(len(ticks)), [shares])
            for label, shares in (("published", [0.9902, 0.136, 0.6854, 0.9902]), ("ours", ours))
        ),
        ticks=ticks,
    )
