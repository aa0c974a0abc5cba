"""What sums multiply their addends by, and sums that lose addends.

They keep the slots of the others, so that a front end finds them where it put them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

from bnfold.core.traits import WeightedSumTraits

if TYPE_CHECKING:
    from bnfold.core.graph import GraphView, Node
    from bnfold.core.verdict import Leaving


def weights_of(node: Node) -> tuple[float, ...]:
    """What each input of a sum, or of one with weights, is multiplied by."""
    return node.traits.weights if isinstance(node.traits, WeightedSumTraits) else (1.0,) * len(node.inputs)


def is_its_addend(node: Node) -> bool:
    """Whether a sum that has lost others is the one addend that it still has, or has none."""
    remaining = [weight for value, weight in zip(node.inputs, weights_of(node), strict=True) if value is not None]
    return not remaining or remaining == [1.0]


def thinned(view: GraphView, leaving: Iterable[Leaving]) -> list[Node]:
    """The sums of ``view`` that lose addends, with None on their slots.

    A sum without any addend left is no addend itself any more of the one sum that reads it.
    """
    sums: dict[int, Node] = {}
    pending = [(item.sum, item.slot) for item in leaving]
    while pending:
        node, slot = pending.pop()
        before = sums.get(node.index, node).inputs
        after = (*before[:slot], None, *before[slot + 1 :])
        sums[node.index] = replace(node, inputs=after)
        if not any(after):
            pending += [(use.node, use.slot) for use in view.readers(node.outputs[0])]
    return list(sums.values())
