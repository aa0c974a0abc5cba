"""Rule ``merge``: a batch norm beside another affine node that has to stay becomes part of it."""

from __future__ import annotations

from bnfold.core.affine import Affine
from bnfold.core.graph import GraphView, Node, OpKind
from bnfold.core.reason import Miss, Reason
from bnfold.core.traits import ScaleShiftTraits
from bnfold.core.verdict import Fold
from bnfold.rules.landing import one_edit_each, swallow_run_inputs
from bnfold.rules.pulling import Ends, pull_up

AFFINE = frozenset({OpKind.BATCH_NORM, OpKind.SCALE_SHIFT})


def merge(view: GraphView, bn: Node, affine: Affine) -> Fold:
    """Fold a batch norm into batch norms or runs of arithmetic next to it. One affine map after another is one map.

    Legal
      1. as ``absorb-above``, with batch norms or runs at the ends of the paths upward; or
      2. where a run is the only reader, and the normalised value is no output of the model.
    What is no batch norm stays: a run goes only where a layer swallows it.
    """
    if bn.kind is not OpKind.BATCH_NORM:
        raise Miss(Reason.NO_LINEAR_LAYER, bn, "arithmetic that is no batch norm stays")
    try:
        edits, crossed = pull_up(view, bn.data, affine, Ends(AFFINE))
        return Fold(bn, affine, "merge", one_edit_each(view, edits), tuple(crossed))
    except Miss:
        readers = view.readers(bn.outputs[0])
        if (
            len(readers) != 1
            or view.is_output(bn.outputs[0])
            or not isinstance(readers[0].node.traits, ScaleShiftTraits)
        ):
            raise
        return Fold(bn, affine, "merge", (swallow_run_inputs(view, readers[0].node, affine),))
