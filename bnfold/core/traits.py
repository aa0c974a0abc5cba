"""What the rules need to know of an operator beyond its kind: typed attributes, the same for every format."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto


@dataclass(frozen=True)
class Window:
    """How a convolution, or a mean, moves over the spatial axes: one number an axis, zeros ``before`` and ``after``."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    before: tuple[int, ...]
    after: tuple[int, ...]


@dataclass(frozen=True)
class LayerTraits:
    """How a linear layer stores and applies its weight.

    The weight is stored as ``(g·o, i, *k)``, or as ``(g·i, o, *k)`` where ``inputs_first`` (transposed convolutions,
    Gemm without transB, MatMul). The layer computes gain · (weight ∗ x) + bias_gain · bias.
    """

    groups: int = 1
    inputs_first: bool = False
    gain: float = 1.0
    bias_gain: float = 1.0
    channel_axis: int = 1
    """The output axis of the channels; −1 where it is the last one of an output of any rank."""
    input_axis: int = 1
    """The input axis of the channels; −1 where it is the last one."""
    takes_shift: bool = True
    """A shift of all inputs shifts every output position alike: no zero padding, no stride that leaves gaps."""
    gains_bias: bool = True
    """Where it has no bias, it can be given one."""
    window: Window | None = None
    """How a convolution moves; None where that is unknown, and for what is no convolution."""


@dataclass(frozen=True)
class BatchNormTraits:
    """ε, and whether the statistics of the batch are used (training mode)."""

    epsilon: float
    training: bool = False


@dataclass(frozen=True)
class Permute:
    """LAYOUT: output axis j is input axis ``axes[j]``."""

    axes: tuple[int, ...]


@dataclass(frozen=True)
class Reshape:
    """LAYOUT: the same elements in row-major order, cut into other axes."""


@dataclass(frozen=True)
class ChannelMap:
    """LAYOUT on axis 1: every element of input channel i lies in an output channel o, for (i, o) in ``pairs``."""

    pairs: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class PoolTraits:
    """POOL: a maximum, or a weighted mean, over ``axes`` (None: the spatial ones, from 2 on).

    Repeating is a mean too, of one number. ``is_sum``: of as many numbers as these axes hold, and not divided by them.
    ``keeps_shift``: the weights sum to 1 at every position, so that a shift passes. ``window`` is there where the mean
    is that of a window whose every position counts, padding included.
    """

    is_max: bool
    keeps_shift: bool = True
    axes: tuple[int, ...] | None = None
    keeps_axes: bool = True
    is_sum: bool = False
    window: Window | None = None


@dataclass(frozen=True)
class PadTraits:
    """PAD along ``axes``, with zeros or with values of the input."""

    axes: tuple[int, ...]
    with_zeros: bool


@dataclass(frozen=True)
class Cut:
    """The part of an axis that an output holds: its positions, or unknown."""

    axis: int
    positions: Sequence[int] | None


@dataclass(frozen=True)
class SliceTraits:
    """SLICE: for each output, what it holds of the axes that are cut; ``axis`` numbers as in the input.

    ``drops_axis``: a single position was picked, of one axis, which the output lacks.
    """

    cuts: tuple[tuple[Cut, ...], ...]
    drops_axis: bool = False


@dataclass(frozen=True)
class ConcatTraits:
    """CONCAT along ``axis`` of the output; ``adds_axis``: one that the inputs lack, each of which is a position."""

    axis: int
    adds_axis: bool = False


@dataclass(frozen=True)
class WeightedSumTraits:
    """WEIGHTED_SUM: what each input is multiplied by, none with 0: 1 and −1 in a difference, 1/n in a mean of n."""

    weights: tuple[float, ...]


class Arithmetic(Enum):
    """What one step of a SCALE_SHIFT does to its value x with its constant c."""

    ADD = auto()
    """x + c."""
    SUBTRACT = auto()
    """x − c."""
    SUBTRACT_FROM = auto()
    """c − x."""
    MULTIPLY = auto()
    """x · c."""
    DIVIDE = auto()
    """x / c."""


@dataclass(frozen=True)
class ScaleShiftStep:
    """One operator of a run: what it does, the input slot of its constant, and the axis along which that varies.

    ``axis`` is None for a single number.
    """

    arithmetic: Arithmetic
    slot: int
    axis: int | None


@dataclass(frozen=True)
class ScaleShiftTraits:
    """A run of operators with constants, in order; together one affine map of ``channels`` channels on ``axis``.

    The node's inputs are the value and then each step's constant. ``is_fixed``: its constants can be no others.
    """

    steps: tuple[ScaleShiftStep, ...]
    axis: int
    channels: int
    is_fixed: bool = False

    @property
    def normalises(self) -> bool:
        """Whether it scales every channel by a number of its own, and shifts it by one, as a batch norm does."""
        scaling = {Arithmetic.MULTIPLY, Arithmetic.DIVIDE}
        per_channel = {step.arithmetic for step in self.steps if step.axis is not None}
        return not per_channel.isdisjoint(scaling) and not per_channel <= scaling


Traits = (
    LayerTraits
    | BatchNormTraits
    | ScaleShiftTraits
    | Permute
    | Reshape
    | ChannelMap
    | PoolTraits
    | PadTraits
    | SliceTraits
    | ConcatTraits
    | WeightedSumTraits
    | None
)
