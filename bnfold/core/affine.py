"""A batch norm in inference mode is y = scale · x + shift per channel, with scale = γ/√(σ²+ε), shift = β − μ · scale.

Ioffe & Szegedy 2015, "Batch Normalization", Algorithm 2, step 11.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bnfold.core.rounding import F64Array


@dataclass(frozen=True, eq=False)
class Affine:
    """y = scale · x + shift along ``axis`` of the value it acts on; scale and shift are float64 of shape ``(C,)``."""

    scale: F64Array
    shift: F64Array
    axis: int = 1

    @property
    def channels(self) -> int:
        """C."""
        return len(self.scale)

    @property
    def is_identity(self) -> bool:
        """Whether it changes nothing."""
        return bool((self.scale == 1).all() and (self.shift == 0).all())

    @property
    def is_uniform(self) -> bool:
        """Whether it does the same to every channel, so that it acts on any axis alike."""
        return self.channels > 0 and bool((self.scale == self.scale[:1]).all() and (self.shift == self.shift[:1]).all())

    def acts_like(self, other: Affine) -> bool:
        """Whether both have the same channels: the same axis, and as many."""
        return (self.axis, self.channels) == (other.axis, other.channels)

    def spread(self, axis: int, channels: int) -> Affine:
        """A uniform affine, as it acts on the channels of any axis."""
        return Affine(np.full(channels, self.scale[0]), np.full(channels, self.shift[0]), axis)

    def then(self, outer: Affine) -> Affine:
        """The map that applies this one first and ``outer`` after it: of the same channels, unless one is uniform."""
        inner = self
        if not inner.acts_like(outer) and inner.is_uniform:
            inner = inner.spread(outer.axis, outer.channels)
        elif not inner.acts_like(outer):
            outer = outer.spread(inner.axis, inner.channels)
        with np.errstate(over="ignore", invalid="ignore"):  # whatever is to swallow it refuses what is not finite
            return Affine(inner.scale * outer.scale, inner.shift * outer.scale + outer.shift, inner.axis)

    def times(self, factor: float) -> Affine:
        """This map times a number: factor · (scale · x + shift)."""
        return Affine(self.scale * factor, self.shift * factor, self.axis)

    @property
    def scale_range(self) -> tuple[float, float]:
        """The smallest and the largest scale; (1, 1) for no channels at all."""
        if self.channels == 0:
            return (1.0, 1.0)
        return (float(self.scale.min()), float(self.scale.max()))


def from_statistics(gamma: F64Array, beta: F64Array, mean: F64Array, variance: F64Array, epsilon: float) -> Affine:
    """The affine map of a batch norm; all arrays ``(C,)``. A broken channel comes out as NaN or Inf, to be refused."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        scale = gamma / np.sqrt(variance + epsilon)
        return Affine(scale, beta - mean * scale)
