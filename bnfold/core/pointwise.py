"""Affine nodes that swallow affines: a batch norm in its γ and β, a run of arithmetic in its constants."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bnfold.core.affine import Affine
from bnfold.core.graph import Constant, GraphView, Node
from bnfold.core.rounding import LARGEST, F64Array, rounded
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
    """γ and β, ``(C,)``, of a batch norm once it has swallowed ``steps`` on its outputs.

    Rounded once to the dtypes they are stored in (bfloat16 as uint16 bits).
    """
    gamma, beta = _gamma_and_beta(view, bn)
    combined = after_steps(view, bn, steps)
    return rounded(combined.scale, gamma.dtype), rounded(combined.shift, beta.dtype)


def after_steps(view: GraphView, node: Node, steps: Iterable[LayerStep]) -> Affine:
    """What an affine node stores once it has swallowed ``steps``: γ·s and β·s + t, or all that a run amounts to."""
    if isinstance(node.traits, ScaleShiftTraits):
        return swallowed(run_affine(view, node), steps)
    gamma, beta = (constant.load().astype(np.float64) for constant in _gamma_and_beta(view, node))
    return swallowed(Affine(gamma, beta), steps)


def largest_stored(view: GraphView, node: Node) -> float:
    """The largest number that the constants of an affine node can hold, those that ``after_steps`` is stored in."""
    is_run = isinstance(node.traits, ScaleShiftTraits)
    stored = [view.constant(node.inputs[1])] if is_run else _gamma_and_beta(view, node)
    return min(LARGEST.get(constant.dtype, 0.0) if constant else 0.0 for constant in stored)


def _gamma_and_beta(view: GraphView, bn: Node) -> tuple[Constant, Constant]:
    gamma, beta = view.constant(bn.inputs[1]), view.constant(bn.inputs[2])
    if gamma is None or beta is None:
        raise ValueError(f"{bn.label!r} has no constant scale and shift")
    return gamma, beta


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
