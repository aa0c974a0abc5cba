"""Addends that nothing can scale, of a sum that a batch norm stands behind: a layer beside them makes up for it.

s·(W∗x + w·x) = (s·W + (s − 1)·w)∗x + w·x: what others read too, such as the input of a block, stays as it is.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

import numpy as np

from bnfold.core.affine import Affine
from bnfold.core.graph import GraphView, Node
from bnfold.core.reason import Miss, Reason
from bnfold.core.verdict import Edit
from bnfold.rules.addends import Mean, addends_of, layers_among, producer_behind, sole_reader, source_of
from bnfold.rules.siblings import mean_joins

MOST_LOST = 16.0
"""How many times as much as the original may lose to rounding what is folded, where s makes the sum smaller.

The original scales a sum that is rounded in units of x; what is folded rounds a sum of this size in the same units.
"""


@dataclass(eq=False)
class Unscaled:
    """What makes up for such addends on one way up, which comes to the outermost sum first.

    A sum is looked through once, with the sums in it, however many addends stay as they are.
    """

    view: GraphView
    _sums: dict[int, _Sum] = field(default_factory=dict)

    def made_up_for(self, total: Node, slot: int, affine: Affine) -> Edit | None:
        """The edit by which a layer does what is missing where ``total`` reads on ``slot`` what stays as it is.

        None where that can be scaled, or no layer of the sum reads the same value. Legal when
          1. a layer among the other addends can do the work of a factor of that value (``siblings.mean_joins``);
          2. the scale, which ``affine`` has without a shift, does not make the sum much smaller. Raises Miss.
        Whether its dtype can hold that is asked once it is scaled itself, as all addends are
        (``landing.one_edit_each``).
        """
        value = total.inputs[slot]
        if value is None or affine.is_identity or not _is_unscalable(self.view, value):
            return None
        outermost, source = self._outermost(total), source_of(self.view, value)
        for weight, host in outermost.layers[source]:
            missing = (affine.scale - 1) * (outermost.weights[total.index, slot] / weight)
            mean = Mean(source, None, Affine(missing, np.zeros_like(missing), affine.axis))
            try:
                join = mean_joins(self.view, host, mean)
            except Miss:
                continue
            if (np.abs(affine.scale) * MOST_LOST < 1).any():
                detail = f"beside it {total.op} {total.label!r} would lose a small scale to rounding"
                raise Miss(Reason.FAN_OUT, total, detail)
            return Edit(host, (join,))
        return None

    def _outermost(self, total: Node) -> _Sum:
        """The outermost sum that ``total`` is part of; ``total`` itself where that is one of too many."""
        if total.index not in self._sums:
            found = _Sum.of(self.view, total)
            self._sums |= dict.fromkeys({total.index, *(index for index, _ in found.weights)}, found)
        return self._sums[total.index]


@dataclass(frozen=True, eq=False)
class _Sum:
    """What a sum multiplies its addends by, by the sum in it that reads them and the slot there.

    ``layers``: those among them, with their weights, by what they read; the largest kernel first.
    """

    weights: dict[tuple[int, int], float]
    layers: defaultdict[str, list[tuple[float, Node]]]

    @classmethod
    def of(cls, view: GraphView, total: Node) -> _Sum:
        """What ``total`` adds up; nothing where it is too much."""
        addends = addends_of(view, total)
        layers: defaultdict[str, list[tuple[float, Node]]] = defaultdict(list)
        for addend, layer in layers_among(view, addends):
            layers[source_of(view, layer.data)].append((addend.weight, layer))
        return cls({(addend.sum.index, addend.slot): addend.weight for addend in addends}, layers)


def _is_unscalable(view: GraphView, addend: str) -> bool:
    """Whether an addend comes from outside, or others read it, or what it is a plain copy of."""
    node, copies = producer_behind(view, addend)
    return node is None or sole_reader(view, copies[-1].data if copies else addend) is None
