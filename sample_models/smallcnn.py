"""smallcnn: tinycnn's small sibling, which ships trained, so that the demo and the tests train nothing. Ours.

One network with the layers a batch norm is folded into: a convolution without bias, a depthwise and a grouped one, and
dense layers, one of them with dropout before its BN. It takes the same images as tinycnn.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sample_models.jobs import Job, Phase, Recipe
from sample_models.training import fit

RECIPE = Recipe(phases=(Phase(6, 0.004), Phase(4, 0.001), Phase(2, 0.0002)), batch=128)


class SmallCNN(nn.Module):
    """Five times a linear layer, its BN and ReLU, then a dense layer: logits ``(N, 10)`` of ``(N, 1, 28, 28)``."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 16, kernel_size=3, stride=2, padding=1, bias=False)
        self.stem_bn = nn.BatchNorm2d(16)
        self.depthwise = nn.Conv2d(16, 32, kernel_size=3, padding=1, groups=16)
        self.depthwise_bn = nn.BatchNorm2d(32, eps=1e-3)
        self.grouped = nn.Conv2d(32, 32, kernel_size=3, stride=2, padding=1, groups=4)
        self.grouped_bn = nn.BatchNorm2d(32)
        self.dense = nn.Linear(32 * 7 * 7, 32, bias=False)
        self.dense_bn = nn.BatchNorm1d(32)
        self.hidden = nn.Linear(32, 32)
        self.dropout = nn.Dropout(0.1)
        self.hidden_bn = nn.BatchNorm1d(32, eps=1e-3)
        self.logits = nn.Linear(32, 10)

    def forward(self, image: Tensor) -> Tensor:
        """Logits ``(N, 10)``."""
        features = torch.relu(self.stem_bn(self.stem(image)))
        features = torch.relu(self.depthwise_bn(self.depthwise(features)))
        features = torch.relu(self.grouped_bn(self.grouped(features)))
        hidden = torch.relu(self.dense_bn(self.dense(features.flatten(1))))
        hidden = torch.relu(self.hidden_bn(self.dropout(self.hidden(hidden))))
        logits: Tensor = self.logits(hidden)
        return logits


def smallcnn() -> SmallCNN:
    """The architecture, untrained: ``--model sample_models.smallcnn:smallcnn``."""
    return SmallCNN()


def train(job: Job) -> SmallCNN:
    """Train for the committed files."""
    torch.manual_seed(job.seed)
    module = smallcnn()
    for name, bn in module.named_children():
        if isinstance(bn, nn.BatchNorm1d | nn.BatchNorm2d):
            _make_uneven(module.get_submodule(name.removesuffix("_bn")), bn)
    fit(module, RECIPE, job)
    return module


def _make_uneven(layer: nn.Module, bn: nn.BatchNorm1d | nn.BatchNorm2d) -> None:
    """Start from channels of unlike size and sign, which a BN evens out, so that a folder's mistake shows.

    Channels of one size have statistics so alike that the network hardly misses some of its BNs (98.9 % without the
    last one); large networks have channels that differ by orders of magnitude, as here.
    """
    channels = bn.num_features
    factors = torch.empty(channels).uniform_(-2, 2).exp2()
    with torch.no_grad():
        for name, parameter in layer.named_parameters():
            if name == "bias":
                parameter.normal_()
            parameter.mul_(factors.view(-1, *[1] * (parameter.dim() - 1)))
        bn.weight.mul_(torch.empty(channels).uniform_(-1, 1).sign())
