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
        return bool((self.scale == self.scale[:1]).all() and (self.shift == self.shift[:1]).all())

    def then(self, outer: Affine) -> Affine:
        """The map that applies this one first and ``outer`` after it, on the axis of the one with more channels."""
        axis = self.axis if self.channels >= outer.channels else outer.axis
        return Affine(self.scale * outer.scale, self.shift * outer.scale + outer.shift, axis)

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
