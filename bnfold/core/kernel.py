"""Any linear layer's weight in the axes (g, o, i, k), and the two folds. They live here, and only here.

g groups, o outputs and i inputs of a group, k all spatial positions; the layer computes, per group and output,
y[g, o] = Σ_{i,k} W[g, o, i, k] · x[g, i, ·] + b[g·o].
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bnfold.core.affine import Affine
from bnfold.core.graph import Constant, GraphView, Node
from bnfold.core.rounding import LARGEST, PIECE_BYTES, F64Array, rounded, rounded_pieces, rounded_product
from bnfold.core.steps import Join, LayerStep, Side
from bnfold.core.traits import LayerTraits

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


SMALLEST_SUMMED = np.dtype(np.float32).itemsize
"""NumPy adds up products of smaller numbers one by one, and their squares leave their range."""

_quiet = np.errstate(over="ignore", invalid="ignore")
"""A model may hold NaN and Inf already, and a fold that overflows is refused by ``fits``, not by a warning."""


@dataclass(frozen=True, eq=False)
class Kernel:
    """A layer's weight ``values · factor`` and its bias ``(…, g·o)``, in float64, or none.

    ``values`` are what is stored, seen as ``(g, o, i, k)``; ``factor``, of the same axes, is broadcast against them.
    Apart, they take no memory until ``stored`` reads, multiplies and rounds in one pass. The bias may have leading axes
    (Gemm's C with a row per sample); they take part unchanged.
    """

    values: NDArray[Any]
    factor: F64Array
    bias: F64Array | None
    traits: LayerTraits
    stored_shape: tuple[int, ...]

    @classmethod
    @_quiet
    def of(cls, weight: NDArray[Any], bias: NDArray[Any] | None, traits: LayerTraits) -> Kernel:
        """The kernel of a stored weight, ``(g·o, i, *k)`` or, where ``traits.inputs_first``, ``(g·i, o, *k)``.

        A bias of one element, or ``(…, 1)``, stands for all channels.
        """
        positions = math.prod(weight.shape[2:])
        canonical = weight.reshape(traits.groups, weight.shape[0] // traits.groups, weight.shape[1], positions)
        if traits.inputs_first:
            canonical = canonical.swapaxes(1, 2)
        if bias is not None:
            outputs = output_channels(traits, weight.shape)
            bias = traits.bias_gain * np.broadcast_to(bias.astype(np.float64), (*bias.shape[:-1], outputs))
        return cls(canonical, np.ones((1, 1, 1, 1)), bias, traits, weight.shape)

    @property
    @_quiet
    def weight(self) -> F64Array:
        """The weight ``(g, o, i, k)`` in float64: a copy, twice as large as float32 is stored."""
        weight: F64Array = np.multiply(self.values, self.factor, dtype=np.float64)
        return weight

    @_quiet
    def scale_outputs(self, affine: Affine) -> Kernel:
        """s·(W∗x + b) + t = (W·s)∗x + (b·s + t); ``affine`` is ``(g·o,)``."""
        groups, outputs = self.values.shape[:2]
        factor = self.factor * affine.scale.reshape(groups, outputs, 1, 1)
        bias = affine.shift if self.bias is None else self.bias * affine.scale + affine.shift
        return replace(self, factor=factor, bias=bias)

    @_quiet
    def absorb_inputs(self, affine: Affine) -> Kernel:
        """W∗(s·x + t) + b = (W·s)∗x + (b + Σ_{i,k} W·t), for a layer without zero padding; ``affine`` is ``(g·i,)``."""
        groups, outputs, inputs = self.values.shape[:3]
        by_input = (groups, 1, inputs, 1)
        sums = self.values.sum(axis=3, keepdims=True, dtype=np.float64) * self.factor
        added = self.traits.gain * (sums * affine.shift.reshape(by_input)).sum(axis=(2, 3)).reshape(groups * outputs)
        factor = self.factor * affine.scale.reshape(by_input)
        return replace(self, factor=factor, bias=added if self.bias is None else self.bias + added)

    @_quiet
    def plus(self, other: Kernel, place: tuple[int, ...]) -> Kernel:
        """W∗x + b + V∗x + c = (W + V)∗x + (b + c): the taps of V begin at ``place`` among those of W."""
        taps, others = self.stored_shape[2:], other.stored_shape[2:]
        weight = self.weight.reshape(*self.values.shape[:3], *taps)
        window = tuple(slice(start, start + size) for start, size in zip(place, others, strict=True))
        added = other.weight.reshape(*other.values.shape[:3], *others)
        weight[(slice(None), slice(None), slice(None), *window)] += added * (other.traits.gain / self.traits.gain)
        biases = [bias for bias in (self.bias, other.bias) if bias is not None]
        bias = biases[0] + biases[1] if len(biases) > 1 else next(iter(biases), None)
        return replace(self, values=weight.reshape(self.values.shape), factor=np.ones((1, 1, 1, 1)), bias=bias)

    def after(self, steps: Iterable[LayerStep]) -> Kernel:
        """The kernel once it has swallowed ``steps``, in order."""
        kernel = self
        for step in steps:
            if isinstance(step, Join):
                kernel = kernel.plus(step.load(), step.place)
            elif step.side is Side.OUTPUTS:
                kernel = kernel.scale_outputs(step.affine)
            else:
                kernel = kernel.absorb_inputs(step.affine)
        return kernel

    def stored(self, weight_dtype: str, bias_dtype: str) -> tuple[NDArray[Any], NDArray[Any] | None]:
        """Weight and bias in the stored layout, rounded once (bfloat16 as uint16 bits); the bias counts with gain 1."""
        return self.stored_weight(weight_dtype), self.stored_bias(bias_dtype)

    def stored_weight(self, dtype: str) -> NDArray[Any]:
        """The weight in the stored layout, rounded once (bfloat16 as uint16 bits)."""
        canonical = rounded_product(self.values, self.factor, dtype)
        return (canonical.swapaxes(1, 2) if self.traits.inputs_first else canonical).reshape(self.stored_shape)

    def stored_pieces(self, dtype: str) -> Iterator[NDArray[Any]]:
        """``stored_weight`` in pieces, one after the other, in the order in which it is stored."""
        if self.traits.inputs_first:
            return rounded_pieces(self.values.swapaxes(1, 2), self.factor.swapaxes(1, 2), dtype)
        return rounded_pieces(self.values, self.factor, dtype)

    def stored_bias(self, dtype: str) -> NDArray[Any] | None:
        """The bias, rounded once (bfloat16 as uint16 bits), as it counts with gain 1."""
        return None if self.bias is None else rounded(np.ascontiguousarray(self.bias), dtype)


def output_channels(traits: LayerTraits, stored_shape: tuple[int, ...]) -> int:
    """g·o of a layer whose weight is stored in this shape."""
    return traits.groups * stored_shape[1] if traits.inputs_first else stored_shape[0]


def input_channels(traits: LayerTraits, stored_shape: tuple[int, ...]) -> int:
    """g·i of a layer whose weight is stored in this shape."""
    return stored_shape[0] if traits.inputs_first else traits.groups * stored_shape[1]


def kernel_of(view: GraphView, layer: Node) -> Kernel:
    """A layer's kernel as its model stores it; the layer must have constant weights."""
    weight, bias, traits = layer_constants(view, layer)
    return Kernel.of(weight.load(), bias.load() if bias else None, traits)


def layer_constants(view: GraphView, layer: Node) -> tuple[Constant, Constant | None, LayerTraits]:
    """The stored weight and bias of a layer, and its traits."""
    weight = view.constant(layer.inputs[1])
    if weight is None or not isinstance(layer.traits, LayerTraits):
        raise ValueError(f"{layer.op} {layer.label!r} has no constant weight")
    return weight, view.constant(layer.inputs[2]), layer.traits


def fits(view: GraphView, layer: Node, steps: tuple[LayerStep, ...]) -> bool:
    """Whether no value of the layer leaves the range of the dtype it is stored in when it swallows ``steps``.

    A value that is NaN or Inf already may stay so. The cheap bound decides nearly always, without float64 copies.
    """
    weight, bias, traits = layer_constants(view, layer)
    bias_dtype = bias.dtype if bias else weight.dtype
    if _magnitude_bound(weight, bias, traits, steps) <= min(LARGEST[weight.dtype], LARGEST[bias_dtype]):
        return True
    before = kernel_of(view, layer)
    after = before.after(steps)
    biases_finite = True if before.bias is None else np.isfinite(before.bias)
    return not bool(
        np.any(np.isfinite(before.weight) & _overflows(after.weight, weight.dtype))
        or (after.bias is not None and np.any(biases_finite & _overflows(after.bias, bias_dtype)))
    )


def _magnitude_bound(
    weight: Constant, bias: Constant | None, traits: LayerTraits, steps: tuple[LayerStep, ...]
) -> float:
    """An upper bound of every |w| and |b| after ``steps``; NaN where a stored value is."""
    weights = _magnitude_at_most(weight.load())
    biases = abs(traits.bias_gain) * _magnitude(bias.load()) if bias else 0.0
    fan_in = math.prod(weight.shape) // max(1, output_channels(traits, weight.shape))
    for step in steps:
        if isinstance(step, Join):
            weight_added, bias_added = step.largest or _largest(step.load())
            weights += weight_added / abs(traits.gain)
            biases += bias_added
            continue
        scale, shift = _magnitude(step.affine.scale), _magnitude(step.affine.shift)
        if step.side is Side.OUTPUTS:
            biases = biases * scale + shift
        else:
            biases += abs(traits.gain) * fan_in * weights * shift
        weights *= scale
    return float(np.maximum(weights, biases))


def _largest(kernel: Kernel) -> tuple[float, float]:
    """The largest |w| that a kernel multiplies by, and its largest |b|."""
    bias = 0.0 if kernel.bias is None else _magnitude(kernel.bias)
    return abs(kernel.traits.gain) * _magnitude(kernel.weight), bias


@_quiet
def _magnitude_at_most(values: NDArray[Any]) -> float:
    """An upper bound of max|v|, or NaN as there; where possible it is 2·√Σv², which takes less time.

    However it is rounded, no sum is smaller than one of the squares; only those below the smallest normal number are
    lost.
    """
    limits = np.finfo(values.dtype)
    if values.dtype.itemsize >= SMALLEST_SUMMED and values.size:
        flat = values.ravel(order="K")
        squares = float(np.dot(flat, flat))
        if squares <= float(limits.max):
            return 2 * math.sqrt(squares) + math.sqrt(float(limits.tiny))
    return _magnitude(values)


def _magnitude(values: NDArray[Any]) -> float:
    """max|v|, 0 for an empty array, NaN where one is NaN; without a temporary array of the same size.

    A large one piece by piece, so that the processor has each in its cache when it is looked at again.
    """
    if values.nbytes > PIECE_BYTES:
        flat, step = values.ravel(order="K"), PIECE_BYTES // values.itemsize
        return float(np.max([_magnitude(flat[start : start + step]) for start in range(0, flat.size, step)]))
    return float(np.maximum(values.max(), -values.min())) if values.size else 0.0


def _overflows(values: F64Array, dtype: str) -> NDArray[np.bool_]:
    """Where rounding to ``dtype`` gives something else than a finite number."""
    stored = rounded(values, dtype)
    exponent_bits = np.uint16(0x7F80)
    not_finite: NDArray[np.bool_]
    not_finite = (stored & exponent_bits) == exponent_bits if dtype == "bfloat16" else ~np.isfinite(stored)
    return not_finite
