"""Addends that nothing can scale, of a sum that a batch norm stands behind: a layer beside them makes up for it.

s·(W∗x + w·x) = (s·W + (s − 1)·w)∗x + w·x: what others read too, such as the input of a block, stays as it is.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from bnfold.core.affine import Affine
from bnfold.core.graph import GraphView, Node
from bnfold.core.kernel import layer_constants
from bnfold.core.reason import Miss, Reason
from bnfold.core.verdict import Edit
from bnfold.rules.addends import Mean, addends_of, layers_among, source_of, window_mean
from bnfold.rules.siblings import mean_joins

MOST_LOST: Mapping[str, float] = {"float64": 2.0**12, "float32": 2.0**6, "float16": 2.0**4, "bfloat16": 2.0**2}
"""How many times as much as the original may lose to rounding what is folded, where s makes the sum smaller, by dtype.

The original scales a sum that is rounded in units of x; what is folded rounds a sum of this size in the same units. In
each dtype a channel stays as close to the original as ``verify`` asks outputs to be.
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

        None where no layer of the sum reads the same value. One that does is in the way of whatever would scale that.
        Legal when
          1. a layer among the other addends can do the work of a factor of that value, or of the mean over a window
             that it is (``siblings.mean_joins``);
          2. the scale, which ``affine`` has without a shift, does not make the sum much smaller. Raises Miss.
        Whether its dtype can hold that is asked once it is scaled itself, as all addends are
        (``landing.one_edit_each``).
        """
        value = total.inputs[slot]
        if value is None or affine.is_identity:
            return None
        outermost = self._outermost(total)
        beside = ((mean, *item) for mean in _means(self.view, value) for item in outermost.layers[mean.source])
        for mean, weight, host in beside:
            missing = (affine.scale - 1) * (outermost.weights[total.index, slot] / weight)
            missed = Affine(missing, np.zeros_like(missing), affine.axis)
            try:
                join = mean_joins(self.view, host, replace(mean, affine=missed))
            except Miss:
                continue
            weight_dtype = layer_constants(self.view, host)[0].dtype
            if (np.abs(affine.scale) * MOST_LOST[weight_dtype] < 1).any():
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


def _means(view: GraphView, value: str) -> Iterator[Mean]:
    """``value`` itself, or what it is a plain copy of; and what that is a mean of over a window."""
    source = source_of(view, value)
    yield Mean(source, None)
    node = view.producer(source)
    pool = window_mean(node) if node is not None else None
    if node is not None and pool is not None:
        yield Mean(source_of(view, node.data), pool.window)
