"""Rule ``absorb-above``: pull the affine up until layers swallow it."""

from __future__ import annotations

from bnfold.core.affine import Affine
from bnfold.core.graph import LAYERS, GraphView, Node
from bnfold.core.verdict import Fold
from bnfold.rules.landing import one_edit_each
from bnfold.rules.pulling import Ends, pull_up


def absorb_above(view: GraphView, bn: Node, affine: Affine) -> Fold:
    """Fold a batch norm into the layers that feed it.

    Legal when
      1. every path upward ends in a layer that swallows what reaches it;
      2. each node on the way lets the affine cross; a sum takes the scale to every addend and the shift to one;
      3. nothing else reads what lies between, and it is no output of the model.
    """
    edits, crossed = pull_up(view, bn.data, affine, Ends(LAYERS))
    return Fold(bn, affine, "absorb-above", one_edit_each(view, edits), tuple(crossed))
