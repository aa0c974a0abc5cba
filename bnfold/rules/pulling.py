"""The way up from a batch norm: follow its affine over every path to where it ends."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from bnfold.core import carry
from bnfold.core.affine import Affine
from bnfold.core.graph import SUM_KINDS, GraphView, Node, OpKind
from bnfold.core.layout import Carried
from bnfold.core.obstacles import per_channel
from bnfold.core.reason import Miss, Reason
from bnfold.core.steps import Side
from bnfold.core.sums import weights_of
from bnfold.core.verdict import Edit
from bnfold.rules.landing import swallow_outputs, taken_along
from bnfold.rules.readers import require_sole_reader
from bnfold.rules.unscaled import Unscaled

SUMS_IN_SUMS = 64
"""So many sums may lie within one another; a shift looks for its way through them by recursion."""


@dataclass(frozen=True, eq=False)
class Ends:
    """Where the way up ends: at nodes of these kinds, and at affine nodes that are going to fold with what they take.

    Those are given by index, with what they do themselves.
    """

    kinds: frozenset[OpKind]
    affines: Mapping[int, Affine] = field(default_factory=dict)

    def edit(self, view: GraphView, node: Node, value: str, affine: Affine) -> Edit:
        """The edit by which ``node`` does ``affine`` on its output ``value``. Raises Miss."""
        own = self.affines.get(node.index)
        if own is None:
            return swallow_outputs(view, node, value, affine)
        return taken_along(node, own, affine, Side.OUTPUTS)


def pull_up(
    view: GraphView, value: str, affine: Affine, ends: Ends, sums: int = SUMS_IN_SUMS
) -> tuple[list[Edit], list[Node]]:
    """The edits of the nodes in ``ends`` that swallow ``affine`` above ``value``; the nodes crossed.

    Nothing else may read what lies between, and it may be no output of the model. A sum takes the scale to every
    addend, or to a layer that makes up for an addend which others read too, and the shift to one, divided by the
    weight of that. Raises Miss.
    """
    edits: list[Edit] = []
    made_up: list[Edit] = []
    unscaled = Unscaled(view)
    crossed: list[Node] = []
    shifts: list[tuple[Node, list[Part]]] = []
    pending: Carried = [(value, affine)]
    while pending:
        value, carried = pending.pop()
        if carried.is_identity:
            continue
        node = view.producer(value)
        if node is None:
            per_channel(carried)  # where something spread it, that is the nearer miss
            raise Miss(Reason.NO_LINEAR_LAYER, None, "an input of the model reaches the batch norm without a layer")
        if node.kind in ends.kinds or node.index in ends.affines:
            arriving = per_channel(carried)
            require_sole_reader(view, value, node)
            edits.append(ends.edit(view, node, value, arriving))
            continue
        if node.kind in SUM_KINDS:
            addends = _addends(view, node, value, per_channel(carried))
            for addend in addends:
                scale = _scale_only(addend.affine)
                edit = unscaled.made_up_for(node, addend.slot, scale)
                if edit is None:
                    pending.append((addend.value, scale))
                else:
                    made_up.append(edit)
            shifts.append((node, addends))
        else:
            pending += carry.upward(view, node, value, carried)
        require_sole_reader(view, value, node)
        crossed.append(node)
    edits += made_up
    for node, addends in shifts:  # after the scales: what a layer swallows first is scaled by what comes later
        more_edits, more_crossed = _shift_one(view, node, addends, ends, sums)
        edits += more_edits
        crossed += more_crossed
    return edits, crossed


class Part(NamedTuple):
    """What a sum reads on a slot, and the affine as it acts on that."""

    slot: int
    value: str
    affine: Affine


def _addends(view: GraphView, node: Node, value: str, affine: Affine) -> list[Part]:
    """The addends, and the affine as it acts on each; one that is broadcast along the channels takes no scale."""
    shape = view.shape(value)
    addends = []
    for slot, (addend, weight) in enumerate(zip(node.inputs, weights_of(node), strict=True)):
        if addend is None:
            continue
        own = view.shape(addend)
        axis = affine.axis + len(own) - len(shape) if own is not None and shape is not None else -1
        if own is None or axis < 0 or own[axis] != affine.channels:
            detail = f"an addend of {node.op} {node.label!r} is broadcast along the channels, or its shape is unknown"
            raise Miss(Reason.CHANNEL_MISMATCH, node, detail)
        addends.append(Part(slot, addend, Affine(affine.scale, affine.shift / weight, axis)))
    return addends


def _shift_one(
    view: GraphView, node: Node, addends: list[Part], ends: Ends, sums: int
) -> tuple[list[Edit], list[Node]]:
    """The first addend on whose way the shift can be swallowed swallows it; where none can, the nearest miss."""
    misses: list[Miss] = []
    for addend in addends if sums else ():
        try:
            return pull_up(view, addend.value, _shift_only(addend.affine), ends, sums - 1)
        except Miss as miss:
            misses.append(miss)
    if not misses:
        raise Miss(Reason.NO_LINEAR_LAYER, node, f"{node.op} {node.label!r} lies in too many sums of sums")
    raise max(misses, key=lambda miss: miss.reason.code)


def _scale_only(affine: Affine) -> Affine:
    return Affine(affine.scale, np.zeros_like(affine.shift), affine.axis)


def _shift_only(affine: Affine) -> Affine:
    return Affine(np.ones_like(affine.scale), affine.shift, affine.axis)
