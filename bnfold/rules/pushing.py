"""The way down from a batch norm: follow its affine over every path to where it ends."""

from __future__ import annotations

from collections.abc import Mapping

from bnfold.core import carry
from bnfold.core.affine import Affine
from bnfold.core.graph import LAYERS, GraphView, Node
from bnfold.core.layout import Carried
from bnfold.core.obstacles import per_channel
from bnfold.core.reason import Miss, Reason
from bnfold.core.steps import Side
from bnfold.core.verdict import Edit
from bnfold.rules.landing import swallow_inputs, taken_along


def push_down(
    view: GraphView, value: str, affine: Affine, affines: Mapping[int, Affine]
) -> tuple[list[Edit], list[Node]]:
    """The edits of the layers that swallow ``affine`` below ``value``; the nodes crossed. Raises Miss.

    ``affines`` are affine nodes, by index, that are going to fold with what they take: a way ends there too.
    """
    edits: list[Edit] = []
    crossed: list[Node] = []
    pending: Carried = [(value, affine)]
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
            elif node.index in affines and slot == 0:
                edits.append(taken_along(node, affines[node.index], per_channel(carried), Side.INPUTS))
            else:
                crossed.append(node)
                pending += carry.downward(view, node, slot, carried)
    return edits, crossed
