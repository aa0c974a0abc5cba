"""Affine nodes that swallow affines: a batch norm in its γ and β, a run of arithmetic in its constants."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bnfold.core.affine import Affine
from bnfold.core.graph import GraphView, Node
from bnfold.core.rounding import F64Array, rounded
from bnfold.core.steps import Join, LayerStep, Side
from bnfold.core.traits import Arithmetic, ScaleShiftTraits

CANCELLING = 2.0**10
"""How far a run may move its value, in the value's own units, and come back: that takes float16's whole fraction."""


class RoundsOnPurposeError(ArithmeticError):
    """A run of arithmetic that is no affine map, since its roundings are its purpose: x + 2²³ − 2²³."""


def swallowed(affine: Affine, steps: Iterable[LayerStep]) -> Affine:
    """The map of an affine node once it has swallowed ``steps``."""
    for step in steps:
        if isinstance(step, Join):
            raise TypeError("only a layer takes in what stands beside it")
        affine = affine.then(step.affine) if step.side is Side.OUTPUTS else step.affine.then(affine)
    return affine


def scale_and_shift(view: GraphView, bn: Node, steps: Iterable[LayerStep]) -> tuple[NDArray[Any], NDArray[Any]]:
    """γ and β, ``(C,)``, of a batch norm once it has swallowed ``steps`` on its outputs: γ·s and β·s + t.

    Rounded once to the dtypes they are stored in (bfloat16 as uint16 bits).
    """
    gamma, beta = view.constant(bn.inputs[1]), view.constant(bn.inputs[2])
    if gamma is None or beta is None:
        raise ValueError(f"{bn.label!r} has no constant scale and shift")
    own = Affine(gamma.load().astype(np.float64), beta.load().astype(np.float64))
    combined = swallowed(own, steps)
    return rounded(combined.scale, gamma.dtype), rounded(combined.shift, beta.dtype)


def run_affine(view: GraphView, run: Node) -> Affine:
    """The affine map of a run of additions and multiplications by constants, composed in float64.

    Raises :class:`RoundsOnPurposeError` for a run that adds a number only to round its value, and takes it away again.
    """
    traits = run.traits
    if not isinstance(traits, ScaleShiftTraits):
        raise TypeError(f"{run.label!r} is no run of arithmetic")
    scale, shift = np.ones(traits.channels), np.zeros(traits.channels)
    farthest = moved = shift
    with np.errstate(all="ignore"):
        for step, value in zip(traits.steps, run.inputs[1:], strict=True):
            constant = view.constant(value)
            if constant is None:
                raise ValueError(f"a constant of {run.label!r} is not known")
            scale, shift = _after_step(step.arithmetic, constant.load().astype(np.float64).reshape(-1), scale, shift)
            moved = np.abs(shift / scale)
            farthest = np.fmax(farthest, moved)
        if ((farthest >= CANCELLING) & (moved * CANCELLING <= farthest)).any():
            raise RoundsOnPurposeError
    return Affine(scale, shift, traits.axis)


def _after_step(
    arithmetic: Arithmetic, constant: F64Array, scale: F64Array, shift: F64Array
) -> tuple[F64Array, F64Array]:
    """Scale and shift, ``(C,)``, of scale·x + shift with one more step; ``constant`` is ``(C,)`` or ``(1,)``."""
    if arithmetic is Arithmetic.ADD:
        return scale, shift + constant
    if arithmetic is Arithmetic.SUBTRACT:
        return scale, shift - constant
    if arithmetic is Arithmetic.SUBTRACT_FROM:
        return -scale, constant - shift
    if arithmetic is Arithmetic.MULTIPLY:
        return scale * constant, shift * constant
    return scale / constant, shift / constant
