"""Rule ``merge``: a batch norm that only another one feeds becomes part of that one."""

from __future__ import annotations

from bnfold.core.affine import Affine
from bnfold.core.graph import GraphView, Node, OpKind
from bnfold.core.verdict import Fold
from bnfold.rules.pulling import pull_up

BATCH_NORMS = frozenset({OpKind.BATCH_NORM})


def merge(view: GraphView, bn: Node, affine: Affine) -> Fold:
    """Fold a batch norm into the batch norms that feed it, where those have to stay.

    Legal as ``absorb-above``, with batch norms at the ends of the paths. One normalisation after another is one:
    s·(γx̂ + β) + t = (γ·s)x̂ + (β·s + t).
    """
    edits, crossed = pull_up(view, bn.data, affine, BATCH_NORMS)
    return Fold(bn, affine, "merge", tuple(edits), tuple(crossed))
