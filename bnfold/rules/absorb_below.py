"""Rule ``absorb-below``: push the affine down until every reader swallows it."""

from __future__ import annotations

from bnfold.core.affine import Affine
from bnfold.core.graph import GraphView, Node
from bnfold.core.verdict import Fold
from bnfold.rules.landing import one_edit_each
from bnfold.rules.pushing import push_down


def absorb_below(view: GraphView, bn: Node, affine: Affine) -> Fold:
    """Fold a batch norm into what reads it.

    Legal when
      1. every path downward ends in a layer that swallows what reaches it, and none in an output of the model;
      2. each node on the way lets the affine cross.
    """
    edits, crossed = push_down(view, bn.outputs[0], affine, {})
    return Fold(bn, affine, "absorb-below", one_edit_each(view, edits), tuple(crossed))
