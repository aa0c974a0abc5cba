"""How an affine crosses arithmetic with constants that stays where it is."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bnfold.core.affine import Affine
from bnfold.core.graph import GraphView, Node
from bnfold.core.layout import Carried
from bnfold.core.obstacles import blocked
from bnfold.core.pointwise import RoundsOnPurposeError, run_affine, swallowed
from bnfold.core.reason import Miss, Reason

LOST = 4.0
"""How many times as much as the original may lose to rounding what is folded, where a shift c is undone and done again.

The original rounds the sum with c before s multiplies it; what is folded rounds one that s has multiplied already.
"""
FAR = 16.0
"""The largest such c: a batch norm gives values of the size of 1, which a larger one would take bits from."""


def run_up(view: GraphView, node: Node, output: str, affine: Affine) -> Carried:
    """s·(a·x + c) + t = a·(s·x + (s·c + t − c)/a) + c, where s does not make the sum much smaller."""
    del output
    own, affine = _on_the_same_channels(view, node, affine)
    if not own.scale.all() or _is_lossy(own, np.abs(affine.scale) * LOST < 1):
        raise blocked(node)
    shift = (affine.scale * own.shift + affine.shift - own.shift) / own.scale
    return [(node.data, Affine(affine.scale, shift, affine.axis))]


def run_down(view: GraphView, node: Node, slot: int, affine: Affine) -> Carried:
    """a·(s·x + t) + c = s·(a·x + c) + a·t + c − s·c, where s does not make the sum much larger."""
    if slot != 0:
        raise blocked(node)
    own, affine = _on_the_same_channels(view, node, affine)
    if _is_lossy(own, np.abs(affine.scale) > LOST):
        raise blocked(node)
    shift = affine.shift * own.scale + own.shift - affine.scale * own.shift
    return [(node.outputs[0], Affine(affine.scale, shift, affine.axis))]


def _is_lossy(run: Affine, rounds_more: NDArray[np.bool_]) -> bool:
    """Whether a shift that stays takes bits from a value, in some channel."""
    return bool(((run.shift != 0) & (rounds_more | (np.abs(run.shift) > FAR))).any())


def _on_the_same_channels(view: GraphView, node: Node, affine: Affine) -> tuple[Affine, Affine]:
    """What a run does, and ``affine``, both on the same channels. Raises Miss."""
    try:
        own = swallowed(run_affine(view, node), view.steps.get(node.index, ()))
    except RoundsOnPurposeError as cause:
        raise blocked(node) from cause
    if not (np.isfinite(own.shift).all() and np.isfinite(own.scale).all()):
        raise blocked(node)
    if not own.acts_like(affine) and own.is_uniform:
        own = own.spread(affine.axis, affine.channels)
    elif not own.acts_like(affine) and affine.is_uniform:
        affine = affine.spread(own.axis, own.channels)
    if not own.acts_like(affine):
        raise Miss(Reason.CHANNEL_MISMATCH, node, f"{node.op} {node.label!r} scales other channels")
    return own, affine
