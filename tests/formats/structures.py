"""Structures that real networks are built of, as tiny torch modules."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional


def conv_bn(inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs))


class BasicBlock(nn.Module):
    """He et al. 2015, "Deep Residual Learning": two convolutions, and one more on the way around."""

    def __init__(self) -> None:
        super().__init__()
        self.first = conv_bn(4, 6, kernel=3, stride=2)
        self.second = conv_bn(6, 6, kernel=3)
        self.downsample = conv_bn(4, 6, stride=2)

    def forward(self, x: torch.Tensor) -> Any:
        return functional.relu(self.second(functional.relu(self.first(x))) + self.downsample(x))


class PreActivationBlock(nn.Module):
    """He et al. 2016, "Identity Mappings": batch norm and ReLU come before each convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.norms = nn.ModuleList(nn.BatchNorm2d(4) for _ in range(4))
        self.convolutions = nn.ModuleList(nn.Conv2d(4, 4, 3, padding=1, bias=False) for _ in range(4))

    def forward(self, x: torch.Tensor) -> Any:
        x = self.stem(x)
        for first in (0, 2):
            inner = x
            for at in (first, first + 1):
                inner = self.convolutions[at](functional.relu(self.norms[at](inner)))
            x = x + inner
        return x


class DenseBlock(nn.Module):
    """Huang et al. 2016, "Densely Connected": every layer reads all before it; a transition; the last batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1, bias=False)
        self.stem_norm = nn.BatchNorm2d(4)
        self.layers = nn.ModuleList(
            nn.Sequential(
                nn.BatchNorm2d(width),
                nn.ReLU(),
                nn.Conv2d(width, 6, 1, bias=False),
                nn.BatchNorm2d(6),
                nn.ReLU(),
                nn.Conv2d(6, 2, 3, padding=1, bias=False),
            )
            for width in (4, 6)
        )
        self.transition = nn.Sequential(
            nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 1, bias=False), nn.AvgPool2d(2), nn.BatchNorm2d(4), nn.ReLU()
        )
        self.head = nn.Linear(4, 5)

    def forward(self, x: torch.Tensor) -> Any:
        features = [functional.max_pool2d(functional.relu(self.stem_norm(self.stem(x))), 3, 2, 1)]
        for layer in self.layers:
            features.append(layer(torch.cat(features, 1)))
        x = self.transition(torch.cat(features, 1))
        return self.head(functional.adaptive_avg_pool2d(x, 1).flatten(1))


class ReparameterisedBlock(nn.Module):
    """Ding et al. 2021, "RepVGG": a 3×3, a 1×1 and the identity side by side, each with its batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn(3, 4, kernel=3)
        self.square = conv_bn(4, 4, kernel=3)
        self.point = conv_bn(4, 4)
        self.identity = nn.BatchNorm2d(4)

    def forward(self, x: torch.Tensor) -> Any:
        x = functional.relu(self.stem(x))
        return functional.relu(self.square(x) + self.point(x) + self.identity(x))


class OverparameterisedBlock(nn.Module):
    """Vasu et al. 2023, "MobileOne": a depthwise and a pointwise block of several branches, the first at stride 2."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn(3, 4, kernel=3)
        self.depthwise = self.branches(3, groups=4, stride=2)
        self.pointwise = self.branches(1)
        self.last = self.branches(3)
        self.skips = nn.ModuleList(nn.BatchNorm2d(4) for _ in range(2))

    @staticmethod
    def branches(kernel: int, groups: int = 1, stride: int = 1) -> nn.ModuleList:
        sizes = (kernel,) * 3 if kernel == 1 else (kernel, kernel, kernel, 1)
        return nn.ModuleList(conv_bn(4, 4, kernel=size, groups=groups, stride=stride) for size in sizes)

    def forward(self, x: torch.Tensor) -> Any:
        x = functional.relu(self.stem(x))
        x = functional.relu(sum(branch(x) for branch in self.depthwise))
        x = functional.relu(sum((branch(x) for branch in self.pointwise), self.skips[0](x)))
        return functional.relu(sum((branch(x) for branch in self.last), self.skips[1](x)))


class ReparameterisedGhost(nn.Module):
    """Chen et al. 2022, "RepGhost": cheap features are added to their source, which has a batch norm of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn(3, 6)
        self.cheap = conv_bn(6, 6, kernel=3, groups=6)
        self.fusion = nn.BatchNorm2d(6)
        self.project = conv_bn(6, 4)

    def forward(self, x: torch.Tensor) -> Any:
        x = functional.relu(self.stem(x))
        return self.project(functional.relu(self.cheap(x) + self.fusion(x)))


class ReparameterisedMixer(nn.Module):
    """Wang et al. 2024, "RepViT": two depthwise kernels and their input are added up, then normalised."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn(3, 4, kernel=3)
        self.square = conv_bn(4, 4, kernel=3, groups=4)
        self.point = nn.Conv2d(4, 4, 1, groups=4)
        self.norm = nn.BatchNorm2d(4)

    def forward(self, x: torch.Tensor) -> Any:
        x = functional.relu(self.stem(x))
        return functional.relu(self.norm(self.square(x) + self.point(x) + x))


class SubtractedNorm(nn.Module):
    """Vasu et al. 2023, "FastViT": what a mixer of branches gives, less its normalised input, is scaled and added."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn(3, 4, kernel=3)
        self.square = conv_bn(4, 4, kernel=3, groups=4)
        self.point = conv_bn(4, 4, groups=4)
        self.identity, self.norm = nn.BatchNorm2d(4), nn.BatchNorm2d(4)
        self.scale = nn.Parameter(torch.rand(4, 1, 1) + 0.5)

    def forward(self, x: torch.Tensor) -> Any:
        x = functional.relu(self.stem(x))
        mixed = self.point(x) + self.identity(x) + self.square(x)
        return functional.relu(x + self.scale * (mixed - self.norm(x)))


class InvertedResidual(nn.Module):
    """Sandler et al. 2018, "MobileNetV2": expand, depthwise, project without an activation, add."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn(3, 4, kernel=3)
        self.body = nn.Sequential(
            conv_bn(4, 8), nn.ReLU6(), conv_bn(8, 8, kernel=3, groups=8), nn.ReLU6(), conv_bn(8, 4)
        )

    def forward(self, x: torch.Tensor) -> Any:
        x = self.stem(x)
        return x + self.body(x)


class ConvMixer(nn.Module):
    """Trockman & Kolter 2022: every batch norm comes behind an activation."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 4, 2, 2)
        self.depthwise = nn.Conv2d(4, 4, 5, padding=2, groups=4)
        self.pointwise = nn.Conv2d(4, 4, 1)
        self.norms = nn.ModuleList(nn.BatchNorm2d(4) for _ in range(3))
        self.head = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> Any:
        x = self.norms[0](functional.relu(self.patches(x)))
        x = x + self.norms[1](functional.relu(self.depthwise(x)))
        x = self.norms[2](functional.relu(self.pointwise(x)))
        return self.head(functional.adaptive_avg_pool2d(x, 1).flatten(1))


class SqueezeAndExcitation(nn.Module):
    """Hu et al. 2017, with a batch norm in the gate (as in MobileNetV3's first form) and one behind the product."""

    def __init__(self) -> None:
        super().__init__()
        self.body = conv_bn(3, 8, kernel=3)
        self.squeeze = conv_bn(8, 4)
        self.excite = nn.Conv2d(4, 8, 1)
        self.project = conv_bn(8, 4)
        self.norm = nn.BatchNorm2d(8)

    def forward(self, x: torch.Tensor) -> Any:
        x = functional.hardswish(self.body(x))
        gate = functional.relu(self.squeeze(functional.adaptive_avg_pool2d(x, 1)))
        x = x * functional.hardsigmoid(self.excite(gate))
        return self.project(self.norm(x))


class MixConv(nn.Module):
    """Tan & Le 2019, "MixConv": depthwise kernels of different sizes, joined, then one batch norm for all."""

    def __init__(self) -> None:
        super().__init__()
        self.expand = conv_bn(3, 6)
        self.mixed = nn.ModuleList(
            nn.Conv2d(2, 2, kernel, padding=kernel // 2, groups=2, bias=False) for kernel in (3, 5, 7)
        )
        self.norm = nn.BatchNorm2d(6)
        self.project = conv_bn(6, 4)

    def forward(self, x: torch.Tensor) -> Any:
        parts = torch.split(functional.silu(self.expand(x)), [2, 2, 2], 1)
        joined = torch.cat([convolution(part) for convolution, part in zip(self.mixed, parts, strict=True)], 1)
        return self.project(functional.silu(self.norm(joined)))


class UNet(nn.Module):
    """Ronneberger et al. 2015: down, up by a transposed convolution or by interpolation, and the skip joined on."""

    def __init__(self) -> None:
        super().__init__()
        self.down = conv_bn(1, 4, kernel=3)
        self.middle = conv_bn(4, 8, kernel=3)
        self.up = nn.ConvTranspose2d(8, 4, 2, stride=2)
        self.up_norm = nn.BatchNorm2d(4)
        self.lateral = nn.Conv2d(8, 4, 1)
        self.lateral_norm = nn.BatchNorm2d(4)
        self.joined_norm = nn.BatchNorm2d(12)
        self.last = nn.Conv2d(12, 2, 1)

    def forward(self, x: torch.Tensor) -> Any:
        skip = functional.relu(self.down(x))
        middle = functional.relu(self.middle(functional.max_pool2d(skip, 2)))
        up = functional.relu(self.up_norm(self.up(middle)))
        wide = functional.interpolate(self.lateral(middle), scale_factor=2.0, mode="bilinear")
        wide = functional.relu(self.lateral_norm(wide))
        return self.last(self.joined_norm(torch.cat([skip, up, wide], 1)))


class LinearNorm(nn.Module):
    """LeViT's layer for tokens: a linear layer, and a batch norm over the flattened (batch · tokens, channels)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, outputs, bias=False)
        self.norm = nn.BatchNorm1d(outputs)

    def forward(self, x: torch.Tensor) -> Any:
        x = self.linear(x)
        return self.norm(x.flatten(0, 1)).reshape_as(x)


class Levit(nn.Module):
    """Graham et al. 2021: a convolutional stem, attention and an MLP over tokens, BN → Linear as the head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn(3, 8, kernel=3, stride=2)
        self.qkv = LinearNorm(8, 16)
        self.projection = LinearNorm(8, 8)
        self.up = LinearNorm(8, 12)
        self.down = LinearNorm(12, 8)
        self.head_norm = nn.BatchNorm1d(8)
        self.head = nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> Any:
        x = self.stem(x).flatten(2).transpose(1, 2)
        x = x + self.attention(x)
        x = x + self.down(functional.hardswish(self.up(x)))
        return self.head(self.head_norm(x.mean(1)))

    def attention(self, x: torch.Tensor) -> Any:
        batch, tokens, _ = x.shape
        q, k, v = self.qkv(x).view(batch, tokens, 2, 8).split([2, 2, 4], dim=3)
        q, k, v = q.permute(0, 2, 1, 3), k.permute(0, 2, 3, 1), v.permute(0, 2, 1, 3)
        mixed = (q @ k).softmax(-1) @ v
        return self.projection(functional.hardswish(mixed.transpose(1, 2).reshape(batch, tokens, 8)))


class TokenNorms(nn.Module):
    """(batch, tokens, channels), transposed for the batch norm (PatchTST, PointNet) or flattened (DeepSpeech)."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 6)
        self.first_norm = nn.BatchNorm1d(6)
        self.up = nn.Linear(6, 8)
        self.up_norm = nn.BatchNorm1d(8)
        self.down = nn.Linear(8, 6)
        self.last_norm = nn.BatchNorm1d(6)
        self.head = nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> Any:
        batch, tokens = x.size(0), x.size(1)
        x = functional.relu(self.first_norm(self.first(x).transpose(1, 2)).transpose(1, 2))
        inner = self.up_norm(self.up(x).view(batch * tokens, -1)).view(batch, tokens, -1)
        x = x + self.down(functional.relu(inner))
        return self.head(self.last_norm(x.transpose(1, 2)).transpose(1, 2))


class ShuffledGroups(nn.Module):
    """Zhang et al. 2017, "ShuffleNet", with the batch norm behind the channel shuffle of its groups."""

    def __init__(self) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(4, 6, 1, groups=2)
        self.norm = nn.BatchNorm2d(6)
        self.spatial = conv_bn(6, 6, kernel=3, groups=6)
        self.expand = conv_bn(6, 4, groups=2)

    def forward(self, x: torch.Tensor) -> Any:
        inner = self.reduce(x)
        batch, channels, height, width = inner.shape
        inner = inner.view(batch, 2, channels // 2, height, width).transpose(1, 2).reshape(batch, -1, height, width)
        return functional.relu(x + self.expand(self.spatial(functional.relu(self.norm(inner)))))


class Audio(nn.Module):
    """Raw sound: strided convolutions, batch norms before and behind the pooling, statistics over time, BN → Linear."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv1d(1, 4, 9, stride=3)
        self.first_norm = nn.BatchNorm1d(4)
        self.second = nn.Conv1d(4, 6, 3, padding=1, dilation=1)
        self.second_norm = nn.BatchNorm1d(6)
        self.third = nn.Conv1d(6, 8, 3, padding=2, dilation=2, bias=False)
        self.third_norm = nn.BatchNorm1d(8)
        self.pooled_norm = nn.BatchNorm1d(8)
        self.head = nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> Any:
        x = functional.relu(self.first_norm(self.first(x)))
        x = functional.relu(self.second_norm(functional.avg_pool1d(self.second(x), 2)))
        x = self.third_norm(functional.relu(self.third(x)))
        return self.head(self.pooled_norm(x.mean(-1)))


class Volume(nn.Module):
    """A 3-D network: convolutions split into space and time, a residual, and the mean over the volume.

    They have biases: for a Conv3d without one, onnxscript 0.7.2 writes a bias of shape (C, 2), which nothing runs.
    """

    def __init__(self) -> None:
        super().__init__()
        self.space = nn.Sequential(nn.Conv3d(1, 4, (1, 3, 3), padding=(0, 1, 1)), nn.BatchNorm3d(4))
        self.time = nn.Sequential(nn.Conv3d(4, 4, (3, 1, 1), padding=(1, 0, 0)), nn.BatchNorm3d(4))
        self.around = nn.Sequential(nn.Conv3d(1, 4, 1), nn.BatchNorm3d(4))
        self.last = nn.Sequential(nn.Conv3d(4, 6, 3), nn.BatchNorm3d(6))
        self.head = nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> Any:
        x = functional.relu(self.time(functional.relu(self.space(x))) + self.around(x))
        return self.head(functional.adaptive_avg_pool3d(self.last(x), 1).flatten(1))


def mlp() -> nn.Module:
    """Batch norms of the input, behind an activation, and before one."""
    return nn.Sequential(
        nn.BatchNorm1d(6),
        nn.Linear(6, 8),
        nn.ReLU(),
        nn.BatchNorm1d(8),
        nn.Dropout(),
        nn.Linear(8, 8),
        nn.BatchNorm1d(8),
        nn.ReLU(),
        nn.Linear(8, 4),
        nn.BatchNorm1d(4),
    )


@dataclass(frozen=True)
class Structure:
    """A module by name, what builds it, and the shape of one example of its input."""

    name: str
    build: Callable[[], nn.Module]
    shape: tuple[int, ...]


STRUCTURES = (
    Structure("ResNet basic block with downsample", BasicBlock, (4, 8, 8)),
    Structure("pre-activation residual blocks", PreActivationBlock, (3, 6, 6)),
    Structure("DenseNet block and transition", DenseBlock, (3, 12, 12)),
    Structure("RepVGG block, three branches", ReparameterisedBlock, (3, 6, 6)),
    Structure("MobileOne blocks", OverparameterisedBlock, (3, 8, 8)),
    Structure("RepGhost module", ReparameterisedGhost, (3, 6, 6)),
    Structure("RepViT block", ReparameterisedMixer, (3, 6, 6)),
    Structure("FastViT mixer", SubtractedNorm, (3, 6, 6)),
    Structure("inverted residual (MobileNetV2)", InvertedResidual, (3, 8, 8)),
    Structure("ConvMixer", ConvMixer, (3, 8, 8)),
    Structure("squeeze-and-excitation", SqueezeAndExcitation, (3, 6, 6)),
    Structure("MixConv", MixConv, (3, 9, 9)),
    Structure("U-Net with ConvTranspose and interpolation", UNet, (1, 8, 8)),
    Structure("LeViT", Levit, (3, 8, 8)),
    Structure("tokens transposed, or flattened, for the batch norm", TokenNorms, (7, 4)),
    Structure("groups shuffled (ShuffleNet)", ShuffledGroups, (4, 6, 6)),
    Structure("1-D audio", Audio, (1, 64)),
    Structure("3-D", Volume, (1, 4, 6, 6)),
    Structure("MLP", mlp, (6,)),
)
"""In the order of the document's table."""
