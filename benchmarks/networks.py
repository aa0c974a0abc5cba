"""The networks that ``latency.py`` times: with batch norms, and as somebody writes them who has none.

The two forms of a network have the same layers in the same order, so that ``copy_layers`` can carry weights over.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from sample_models.tinycnn import TinyCNN

MakeConv = Callable[[int, int, int, int], nn.Module]
"""A convolution's channels before and after, kernel size and stride; padded so that only the stride shrinks."""

EXPANSION = 4
BLOCKS = (3, 4, 6, 3)
WIDTH = 64
REPVGG_BLOCKS = (1, 2, 4, 14, 1)
REPVGG_WIDTHS = (48, 48, 96, 192, 1280)


class ConvBn(nn.Module):
    """A convolution without bias, and its batch norm."""

    def __init__(self, before: int, after: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(before, after, kernel, stride, padding=kernel // 2, bias=False)
        self.bn = nn.BatchNorm2d(after)

    def forward(self, value: Tensor) -> Tensor:
        """The normalised convolution."""
        result: Tensor = self.bn(self.conv(value))
        return result


def conv(before: int, after: int, kernel: int, stride: int) -> nn.Module:
    """A convolution with a bias: all that is left of ``ConvBn``."""
    return nn.Conv2d(before, after, kernel, stride, padding=kernel // 2)


class Bottleneck(nn.Module):
    """1×1, 3×3, 1×1, and a shortcut, which gets a convolution where shapes change (He et al. 2016, figure 5)."""

    def __init__(self, make_conv: MakeConv, before: int, inner: int, stride: int) -> None:
        super().__init__()
        after = inner * EXPANSION
        self.reduce = make_conv(before, inner, 1, 1)
        self.spatial = make_conv(inner, inner, 3, stride)
        self.expand = make_conv(inner, after, 1, 1)
        self.shortcut = make_conv(before, after, 1, stride) if before != after or stride > 1 else None

    def forward(self, value: Tensor) -> Tensor:
        """The block's output, rectified."""
        branch = functional.relu(self.reduce(value))
        branch = functional.relu(self.spatial(branch))
        branch = self.expand(branch)
        return functional.relu(branch + (value if self.shortcut is None else self.shortcut(value)))


class ResNet(nn.Module):
    """ResNet-50's shape for images ``(N, 3, H, W)``, logits ``(N, 1000)``; ``make_conv`` decides about batch norms."""

    def __init__(self, make_conv: MakeConv = ConvBn, blocks: tuple[int, ...] = BLOCKS, width: int = WIDTH) -> None:
        super().__init__()
        self.stem = make_conv(3, width, 7, 2)
        layers: list[nn.Module] = []
        channels = width
        for stage, count in enumerate(blocks):
            for block in range(count):
                inner = width * 2**stage
                layers.append(Bottleneck(make_conv, channels, inner, 2 if stage > 0 and block == 0 else 1))
                channels = inner * EXPANSION
        self.blocks = nn.Sequential(*layers)
        self.head = nn.Linear(channels, 1000)

    def forward(self, image: Tensor) -> Tensor:
        """Logits ``(N, 1000)``."""
        value = functional.max_pool2d(functional.relu(self.stem(image)), 3, 2, padding=1)
        logits: Tensor = self.head(self.blocks(value).mean((2, 3)))
        return logits


class BranchedBlock(nn.Module):
    """A 3×3, a 1×1 and, where shapes stay, the identity side by side, each with its batch norm."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.square = ConvBn(before, after, 3, stride)
        self.point = ConvBn(before, after, 1, stride)
        self.identity = nn.BatchNorm2d(before) if before == after and stride == 1 else None

    def forward(self, value: Tensor) -> Tensor:
        """The sum of the branches, rectified."""
        total = self.square(value) + self.point(value)
        return functional.relu(total if self.identity is None else total + self.identity(value))


class RepVGG(nn.Module):
    """RepVGG-A0's shape, as it is trained (Ding et al. 2021, table 2), for images ``(N, 3, H, W)``."""

    def __init__(self, blocks: Sequence[int] = REPVGG_BLOCKS, widths: Sequence[int] = REPVGG_WIDTHS) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for count, width in zip(blocks, widths, strict=True):
            for block in range(count):
                layers.append(BranchedBlock(channels, width, stride=1 if block else 2))
                channels = width
        self.blocks = nn.Sequential(*layers)
        self.head = nn.Linear(channels, 1000)

    def forward(self, image: Tensor) -> Tensor:
        """Logits ``(N, 1000)``."""
        logits: Tensor = self.head(self.blocks(image).mean((2, 3)))
        return logits


class TinyCNNWithout(nn.Module):
    """tinycnn, written without batch norms."""

    mean: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(()))
        self.conv = nn.Conv2d(1, 20, kernel_size=5, padding="same")
        self.dense = nn.Linear(20 * 28 * 28, 1000)
        self.logits = nn.Linear(1000, 10)

    def forward(self, image: Tensor) -> Tensor:
        """Logits ``(N, 10)``."""
        features = torch.relu(self.conv(image - self.mean))
        hidden = torch.relu(self.dense(features.flatten(1)))
        logits: Tensor = self.logits(hidden)
        return logits


def tinycnn() -> tuple[nn.Module, nn.Module]:
    """With batch norms, and without; the weights of the second are for ``copy_layers`` to give."""
    return shaken(TinyCNN()), TinyCNNWithout().eval()


def resnet(blocks: tuple[int, ...] = BLOCKS, width: int = WIDTH) -> tuple[nn.Module, nn.Module]:
    """With batch norms, and without; the weights of the second are for ``copy_layers`` to give."""
    return shaken(ResNet(ConvBn, blocks, width)), ResNet(conv, blocks, width).eval()


def shaken(module: nn.Module, seed: int = 0) -> nn.Module:
    """``module`` in evaluation mode, its batch norms as far from the identity as training takes them."""
    generator = torch.Generator().manual_seed(seed)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.uniform_(part.weight, 0.3, 1.2, generator=generator)
            nn.init.normal_(part.bias, 0, 0.5, generator=generator)
            nn.init.normal_(part.get_buffer("running_mean"), 0, 0.5, generator=generator)
            nn.init.uniform_(part.get_buffer("running_var"), 0.3, 3, generator=generator)
    return module.eval()


def copy_layers(source: nn.Module, target: nn.Module) -> None:
    """Give the layers of ``target`` the weights and biases of those of ``source``, in order."""
    for ours, theirs in zip(layers_of(source), layers_of(target), strict=True):
        theirs.load_state_dict(ours.state_dict())


def layers_of(module: nn.Module) -> list[nn.Module]:
    """The convolutions and dense layers, in the order in which they were made."""
    return [part for part in module.modules() if isinstance(part, nn.Conv2d | nn.Linear)]
