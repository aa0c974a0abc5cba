"""How an affine crosses arithmetic with constants that stays where it is."""

from __future__ import annotations

import numpy as np

from bnfold.core.affine import Affine
from bnfold.core.graph import GraphView, Node
from bnfold.core.layout import Carried
from bnfold.core.obstacles import blocked
from bnfold.core.pointwise import RoundsOnPurposeError, run_affine, swallowed
from bnfold.core.reason import Miss, Reason


def run_up(view: GraphView, node: Node, output: str, affine: Affine) -> Carried:
    """s·(a·x) + t = a·(s·x + t/a)."""
    del output
    own, affine = _scales_alone(view, node, affine)
    if not own.scale.all():
        raise blocked(node)
    return [(node.data, Affine(affine.scale, affine.shift / own.scale, affine.axis))]


def run_down(view: GraphView, node: Node, slot: int, affine: Affine) -> Carried:
    """a·(s·x + t) = s·(a·x) + a·t."""
    if slot != 0:
        raise blocked(node)
    own, affine = _scales_alone(view, node, affine)
    return [(node.outputs[0], Affine(affine.scale, affine.shift * own.scale, affine.axis))]


def _scales_alone(view: GraphView, node: Node, affine: Affine) -> tuple[Affine, Affine]:
    """What a run does that only scales, and ``affine``, both on the same channels. Raises Miss.

    A shift that stays would have to be undone and done again, where it may cancel most of a value's bits.
    """
    try:
        own = swallowed(run_affine(view, node), view.steps.get(node.index, ()))
    except RoundsOnPurposeError as cause:
        raise blocked(node) from cause
    if own.shift.any() or not np.isfinite(own.scale).all():
        raise blocked(node)
    if not own.acts_like(affine) and own.is_uniform:
        own = own.spread(affine.axis, affine.channels)
    elif not own.acts_like(affine) and affine.is_uniform:
        affine = affine.spread(own.axis, own.channels)
    if not own.acts_like(affine):
        raise Miss(Reason.CHANNEL_MISMATCH, node, f"{node.op} {node.label!r} scales other channels")
    return own, affine
