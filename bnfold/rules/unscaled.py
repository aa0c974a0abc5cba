"""Addends that nothing can scale, of a sum that a batch norm stands behind: a layer beside them makes up for it.

s·(W∗x + w·x) = (s·W + (s − 1)·w)∗x + w·x: what others read too, such as the input of a block, stays as it is.
"""

from __future__ import annotations

import numpy as np

from bnfold.core.affine import Affine
from bnfold.core.graph import GraphView, Node
from bnfold.core.reason import Miss, Reason
from bnfold.core.verdict import Edit
from bnfold.rules.addends import Mean, addends_of, layers_among, producer_behind, sole_reader, source_of, sum_around
from bnfold.rules.landing import edit_of
from bnfold.rules.siblings import mean_joins

MOST_LOST = 16.0
"""How many times as much as the original may lose to rounding what is folded, where s makes the sum smaller.

The original scales a sum that is rounded in units of x; what is folded rounds a sum of this size in the same units.
"""


def is_unscalable(view: GraphView, addend: str) -> bool:
    """Whether an addend comes from outside, or others read it, or what it is a plain copy of."""
    node, copies = producer_behind(view, addend)
    return node is None or sole_reader(view, copies[-1].data if copies else addend) is None


def made_up_for(view: GraphView, total: Node, slot: int, affine: Affine) -> Edit | None:
    """The edit by which a layer does what is missing where ``total`` reads on ``slot`` what stays as it is.

    None where no layer of the sum reads the same value. Legal when
      1. a layer among the other addends can do the work of a factor of that value (``siblings.mean_joins``);
      2. the scale, which ``affine`` has without a shift, does not make the sum much smaller. Raises Miss.
    """
    addends = addends_of(view, sum_around(view, total.outputs[0]) or total)
    if not addends:
        return None  # it is a sum of too many
    own = next(addend for addend in addends if addend.sum is total and addend.slot == slot)
    for beside, host in layers_among(view, addends):
        missing = Affine((affine.scale - 1) * own.weight / beside.weight, np.zeros_like(affine.scale), affine.axis)
        try:
            edit = edit_of(view, host, mean_joins(view, host, Mean(source_of(view, own.value), None, missing)))
        except Miss:
            continue
        if (np.abs(affine.scale) * MOST_LOST < 1).any():
            detail = f"beside it {total.op} {total.label!r} would lose a small scale to rounding"
            raise Miss(Reason.FAN_OUT, total, detail)
        return edit
    return None
