"""Rule ``absorb-below``: push the affine down until every reader swallows it."""

from __future__ import annotations

from bnfold.core import carry
from bnfold.core.affine import Affine
from bnfold.core.graph import LAYERS, GraphView, Node
from bnfold.core.layout import Carried
from bnfold.core.obstacles import per_channel
from bnfold.core.reason import Miss, Reason
from bnfold.core.verdict import Edit, Fold
from bnfold.rules.landing import one_edit_each, swallow_inputs


def absorb_below(view: GraphView, bn: Node, affine: Affine) -> Fold:
    """Fold a batch norm into what reads it.

    Legal when
      1. every path downward ends in a layer that swallows what reaches it, and none in an output of the model;
      2. each node on the way lets the affine cross.
    """
    edits: list[Edit] = []
    crossed: list[Node] = []
    pending: Carried = [(bn.outputs[0], affine)]
    while pending:
        value, carried = pending.pop()
        if carried.is_identity:
            continue
        if view.is_output(value):
            per_channel(carried)
            raise Miss(
                Reason.NO_LINEAR_LAYER, None, "the normalised value reaches an output of the model without a layer"
            )
        for node, slot in view.readers(value):
            if node.kind in LAYERS and slot == 0:
                edits.append(swallow_inputs(view, node, value, per_channel(carried)))
                continue
            crossed.append(node)
            pending += carry.downward(view, node, slot, carried)
    return Fold(bn, affine, "absorb-below", one_edit_each(view, edits), tuple(crossed))
