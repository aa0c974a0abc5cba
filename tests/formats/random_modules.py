"""Random modules of what affines meet in PyTorch: layers, views, sums, writes in place, parts that run twice."""

from __future__ import annotations

import math
from collections.abc import Callable
from random import Random
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch_modules import shaken

Shape = tuple[int, ...]
"""Without the batch axis."""
Step = tuple[str, tuple[Any, ...]]
"""An operation and its arguments: the numbers of the values it takes, then settings."""

OPERATIONS: dict[str, Callable[..., torch.Tensor]] = {
    "relu": torch.relu,
    "relu in place": torch.relu_,
    "itself": lambda x: x,
    "clone": torch.clone,
    "detach": torch.detach,
    "contiguous": lambda x: x.contiguous(),
    "twice": lambda x: x * 2,
    "one more, in place": lambda x: x.add_(1.0),
    "add": torch.add,
    "add in place": lambda x, y: x.add_(y),
    "subtract": torch.sub,
    "subtract twice, in place": lambda x, y: x.sub_(y, alpha=2),
    "negate": torch.neg,
    "mean of both": lambda x, y, axis: torch.stack([x, y], axis).mean(axis),
    "stack": lambda x, y, axis: torch.stack([x, y], axis),
    "largest": lambda x, axes, keep: x.amax(axes, keepdim=keep),
    "sum": lambda x, axes, keep: x.sum(axes, keepdim=keep),
    "cat": lambda x, y, axis: torch.cat([x, y], axis),
    "chunk": lambda x, axis, part: x.chunk(2, axis)[part],
    "cut": lambda x, axis, start: x.narrow(axis, start, x.shape[axis] - start),
    "permute": lambda x, axes: x.permute(axes),
    "reshape": lambda x, shape: x.reshape((-1, *shape)),
    "mean": lambda x, axes, keep: x.mean(axes, keepdim=keep),
    "max pool": lambda x, padding: functional.max_pool2d(x, 2, 1, padding),
    "mean pool": lambda x, padding, counts: functional.avg_pool2d(x, 2, 1, padding, count_include_pad=counts),
    "mean pool that reaches over": lambda x, padding, counts: functional.avg_pool2d(
        x, 2, 2, padding, ceil_mode=True, count_include_pad=counts
    ),
    "global mean": lambda x: functional.adaptive_avg_pool2d(x, 1),
    "upsample": lambda x, mode: functional.interpolate(x, scale_factor=2, mode=mode),
    "pad": lambda x, mode: functional.pad(x, (1, 0, 0, 1), mode=mode),
    "shuffle": lambda x: functional.pixel_shuffle(x, 2),
    "unshuffle": lambda x: functional.pixel_unshuffle(x, 2),
}
TWO = ("add", "add in place", "subtract", "subtract twice, in place", "mean of both", "stack", "cat")
VALUES = dict.fromkeys(TWO, 2)
"""How many values an operation takes, where it is not one."""


class RandomModule(nn.Module):
    """Runs its steps in order; ``part`` steps run one of its parts."""

    def __init__(self, parts: list[nn.Module], steps: list[Step], outputs: list[int]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)
        self.steps = steps
        self.outputs = outputs

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        values = [x]
        for name, arguments in self.steps:
            if name == "part":
                source, part = arguments
                values.append(self.parts[part](values[source]))
                continue
            count = VALUES.get(name, 1)
            taken = [values[source] for source in arguments[:count]]
            values.append(OPERATIONS[name](*taken, *arguments[count:]))
        return [values[output] for output in self.outputs]


class ModuleBuilder:
    """Grows a module by appending random steps to random values."""

    def __init__(self, random: Random) -> None:
        self.random = random
        self.start: Shape = random.choice([(4, 6, 6), (4, 4, 4), (4, 4), (6, 4), (6,)])
        self.shapes: list[Shape] = [self.start]
        self.parts: list[nn.Module] = []
        self.steps: list[Step] = []

    def build(self, operations: int) -> RandomModule:
        """A module of about so many operations; the last value, and a few more, are its outputs."""
        torch.manual_seed(self.random.randrange(2**31))
        for _ in range(operations):
            source = self.random.randrange(max(0, len(self.shapes) - 3), len(self.shapes))
            grow = self.random.choice(BY_RANK[len(self.shapes[source])])
            grow(self, source, self.shapes[source])
        last = len(self.shapes) - 1
        outputs = [last, *(value for value in range(1, last) if self.random.random() < 0.1)]
        module = RandomModule(self.parts, self.steps, outputs)
        shaken(module, self.random.randrange(2**31))
        return module

    def add(self, name: str, shape: Shape, *arguments: Any) -> None:
        self.steps.append((name, arguments))
        self.shapes.append(shape)

    def part(self, source: int, part: nn.Module, shape: Shape) -> None:
        self.parts.append(part)
        self.add("part", shape, source, len(self.parts) - 1)

    def alike(self, shape: Shape) -> int:
        """A value of this shape."""
        return self.random.choice([value for value, known in enumerate(self.shapes) if known == shape])


class Frozen(nn.Module):
    """Buffers, and arithmetic along axis 1 instead of the operator; ``clamped``: there is more in it."""

    def __init__(self, features: int, *, clamped: bool) -> None:
        super().__init__()
        for name in ("weight", "bias", "running_mean", "running_var"):
            self.register_buffer(name, torch.rand(features) + 0.5)
        self.clamped = clamped

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shape = (1, -1, *[1] * (x.dim() - 2))
        weight, bias, mean, variance = (buffer.view(shape) for buffer in self.buffers())
        x = (x - mean) / torch.sqrt(variance + 1e-3) * weight + bias
        return x.clamp(max=1e9) if self.clamped else x


class NormAndActivation(nn.BatchNorm2d):
    """A batch norm of any rank that has an activation inside."""

    def _check_input_dim(self, input: torch.Tensor) -> None:  # noqa: A002 - the base class's name
        del input

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002 - the base class's name
        return torch.relu(super().forward(input))


def odd_batch_norm(to: ModuleBuilder, source: int, shape: Shape) -> None:
    kind = to.random.randrange(3)
    part = NormAndActivation(shape[0]) if kind == 2 else Frozen(shape[0], clamped=kind == 1)
    to.part(source, part, shape)


def beside_a_layer(to: ModuleBuilder, source: int, shape: Shape) -> None:
    """A layer that keeps the shape, and its input added to what it gives, or taken from it; then a batch norm."""
    channels, last = (shape[0], len(shape) + 1) if len(shape) > 1 else (shape[-1], 2)
    if last == 4:
        layer: nn.Module = nn.Conv2d(channels, channels, 3, padding=1, groups=to.random.choice([1, channels]))
    else:
        layer = nn.Conv1d(channels, channels, 3, padding=1) if last == 3 else nn.Linear(channels, channels)
    to.part(source, layer, shape)
    given = len(to.shapes) - 1
    beside = source
    if to.random.random() < 0.5:
        batch_norm(to, source, shape)
        beside = len(to.shapes) - 1
    pair = to.random.choice([(given, beside), (beside, given)])
    to.add(to.random.choice(["add", "subtract", "subtract twice, in place", "add in place"]), shape, *pair)
    batch_norm(to, len(to.shapes) - 1, shape)


def batch_norm(to: ModuleBuilder, source: int, shape: Shape) -> None:
    kind = nn.BatchNorm2d if len(shape) == 3 else nn.BatchNorm1d
    to.part(source, kind(shape[0], affine=to.random.random() < 0.85), shape)


def conv(to: ModuleBuilder, source: int, shape: Shape) -> None:
    kernel, padding = to.random.choice([(1, 0), (3, 1), (3, 0)])
    if min(shape[1:]) + 2 * padding < kernel:
        return
    groups = to.random.choice([1, 1, 2]) if shape[0] % 2 == 0 else 1
    mode: Any = to.random.choice(["zeros", "zeros", "circular"])
    bias, outputs = to.random.random() < 0.5, to.random.choice([4, 6])
    layer = nn.Conv2d(shape[0], outputs, kernel, padding=padding, groups=groups, bias=bias, padding_mode=mode)
    to.part(source, layer, (outputs, *(size + 2 * padding - kernel + 1 for size in shape[1:])))


def conv_once_more(to: ModuleBuilder, source: int, shape: Shape) -> None:
    """A convolution that has run already."""
    for number, part in enumerate(to.parts):
        if isinstance(part, nn.Conv2d) and (part.in_channels, part.kernel_size) == (shape[0], (1, 1)):
            to.add("part", (part.out_channels, *shape[1:]), source, number)
            return


def transposed_conv(to: ModuleBuilder, source: int, shape: Shape) -> None:
    kernel = to.random.choice([1, 2])
    layer = nn.ConvTranspose2d(shape[0], 4, kernel, bias=to.random.random() < 0.5)
    to.part(source, layer, (4, *(size + kernel - 1 for size in shape[1:])))


def conv_1d(to: ModuleBuilder, source: int, shape: Shape) -> None:
    kernel, padding = to.random.choice([(1, 0), (3, 1)])
    to.part(source, nn.Conv1d(shape[0], 4, kernel, padding=padding), (4, shape[1] + 2 * padding - kernel + 1))


def linear(to: ModuleBuilder, source: int, shape: Shape) -> None:
    outputs = to.random.choice([4, 6])
    to.part(source, nn.Linear(shape[-1], outputs, bias=to.random.random() < 0.5), (*shape[:-1], outputs))


def same_shape(name: str) -> Callable[[ModuleBuilder, int, Shape], None]:
    return lambda to, source, shape: to.add(name, shape, source)


def with_another(name: str) -> Callable[[ModuleBuilder, int, Shape], None]:
    return lambda to, source, shape: to.add(name, shape, source, to.alike(shape))


def cat(to: ModuleBuilder, source: int, shape: Shape) -> None:
    axis = to.random.randrange(len(shape))
    if math.prod(shape) <= 300:
        to.add("cat", (*shape[:axis], 2 * shape[axis], *shape[axis + 1 :]), source, to.alike(shape), axis + 1)


def stack(to: ModuleBuilder, source: int, shape: Shape) -> None:
    axis = to.random.randrange(len(shape) + 1)
    if to.random.random() < 0.5:
        to.add("mean of both", shape, source, to.alike(shape), to.random.randrange(axis + 2))
    elif len(shape) < max(BY_RANK) and math.prod(shape) <= 300:
        to.add("stack", (*shape[:axis], 2, *shape[axis:]), source, to.alike(shape), axis + 1)


def chunk(to: ModuleBuilder, source: int, shape: Shape) -> None:
    axis = to.random.randrange(len(shape))
    if shape[axis] % 2 == 0:
        half = (*shape[:axis], shape[axis] // 2, *shape[axis + 1 :])
        to.add("chunk", half, source, axis + 1, to.random.randrange(2))


def cut(to: ModuleBuilder, source: int, shape: Shape) -> None:
    axis = to.random.randrange(len(shape))
    start = to.random.randrange(shape[axis])
    to.add("cut", (*shape[:axis], shape[axis] - start, *shape[axis + 1 :]), source, axis + 1, start)


def permute(to: ModuleBuilder, source: int, shape: Shape) -> None:
    axes = list(range(1, len(shape) + 1))
    to.random.shuffle(axes)
    to.add("permute", tuple(shape[axis - 1] for axis in axes), source, (0, *axes))


def reshape(to: ModuleBuilder, source: int, shape: Shape) -> None:
    """To other axes, some of which scramble the channels, and some of which take in the batch."""
    total = math.prod(shape)
    targets: list[Shape] = [(a, total // a) for a in (2, 4, 6) if total % a == 0]
    targets += [(a, b, total // a // b) for a in (2, 4, 6) for b in (1, 2, 3) if total % (a * b) == 0]
    targets += [(total,)] if total <= 64 else []
    targets += [(a,) for a in (2, 4, 6) if total % a == 0] + [shape[-1:], shape[1:] or shape]
    target = to.random.choice(targets)
    to.add("reshape", target, source, target)


def mean(to: ModuleBuilder, source: int, shape: Shape) -> None:
    axes = to.random.choice([(2, 3), (2,), (3,), (1,)] if len(shape) == 3 else [(2,), (1,)])
    keep = to.random.random() < 0.5
    kept = [1 if axis + 1 in axes else size for axis, size in enumerate(shape) if keep or axis + 1 not in axes]
    to.add(to.random.choice(["mean", "mean", "largest", "sum"]), tuple(kept), source, axes, keep)


def pool(to: ModuleBuilder, source: int, shape: Shape) -> None:
    padding = to.random.randrange(2)
    if min(shape[1:]) + 2 * padding < 2:
        return
    smaller = (shape[0], *(size + 2 * padding - 1 for size in shape[1:]))
    if to.random.random() < 0.2:
        halves = (shape[0], *((size + 1 - padding) // 2 + padding for size in shape[1:]))
        to.add("mean pool that reaches over", halves, source, padding, to.random.random() < 0.5)
    elif to.random.random() < 0.5:
        to.add("max pool", smaller, source, padding)
    else:
        to.add("mean pool", smaller, source, padding, to.random.random() < 0.5)


def resample(to: ModuleBuilder, source: int, shape: Shape) -> None:
    channels, height, width = shape
    kinds: list[tuple[str, Shape, tuple[Any, ...]]] = [("global mean", (channels, 1, 1), ())]
    if math.prod(shape) <= 200:
        kinds += [("upsample", (channels, 2 * height, 2 * width), (mode,)) for mode in ("nearest", "bilinear")]
    kinds += [("pad", (channels, height + 1, width + 1), (mode,)) for mode in ("constant", "replicate")]
    if channels % 4 == 0:
        kinds.append(("shuffle", (channels // 4, 2 * height, 2 * width), ()))
    if height % 2 == width % 2 == 0:
        kinds.append(("unshuffle", (4 * channels, height // 2, width // 2), ()))
    name, result, settings = to.random.choice(kinds)
    to.add(name, result, source, *settings)


ANY = [
    *[batch_norm] * 4,
    odd_batch_norm,
    beside_a_layer,
    *map(same_shape, ("relu", "relu in place", "itself", "clone", "detach", "contiguous", "twice")),
    *map(same_shape, ("one more, in place",)),
    *map(same_shape, ("negate",)),
    *map(with_another, ("add", "add in place", "subtract", "subtract twice, in place")),
    *(cat, stack, chunk, cut, permute, reshape),
]
BY_RANK: dict[int, list[Callable[[ModuleBuilder, int, Shape], None]]] = {
    3: [*ANY, conv, conv, conv, conv_once_more, transposed_conv, linear, mean, pool, resample, resample],
    2: [*ANY, linear, linear, linear, conv_1d, conv_1d, mean],
    1: [*ANY, linear, linear, linear, linear],
}
