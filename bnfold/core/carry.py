"""How an affine crosses a node on its way to a layer, or why it may not."""

from __future__ import annotations

from bnfold.core.affine import Affine
from bnfold.core.graph import Node, OpKind
from bnfold.core.reason import Miss, Reason


def upward(node: Node, affine: Affine) -> list[tuple[str, Affine]]:
    """The affines that, on the inputs of ``node``, do what ``affine`` does on its output.

    Raises Miss (NO_LINEAR_LAYER) where the node lets none pass.
    """
    if node.kind is OpKind.LAYOUT:
        return [(node.data, affine)]
    raise Miss(Reason.NO_LINEAR_LAYER, node, f"{node.op} lies between the batch norm and any layer above it")
