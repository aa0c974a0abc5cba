"""How an affine crosses what joins values, or takes one apart: concatenations, slices, sums."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bnfold.core.affine import Affine
from bnfold.core.graph import GraphView, Node
from bnfold.core.layout import MOST_ELEMENTS, Carried
from bnfold.core.obstacles import blocked, mixes, rank_of, size_of, sizes_unknown
from bnfold.core.reason import Miss, Reason
from bnfold.core.sums import weights_of
from bnfold.core.traits import ConcatTraits, Cut, SliceTraits


def concat_up(view: GraphView, node: Node, output: str, affine: Affine) -> Carried:
    """The slice of the affine that each part takes; along another axis every part takes all of it."""
    del output
    axis = _concat_axis(view, node)
    sources = [value for value in node.inputs if value is not None]
    if _adds_axis(node):
        if axis == affine.axis:
            raise mixes(node)
        affine = Affine(affine.scale, affine.shift, affine.axis - (axis < affine.axis))
        return [(value, affine) for value in sources]
    if axis != affine.axis:
        return [(value, affine) for value in sources]
    start = 0
    carried: Carried = []
    for value in sources:
        stop = start + size_of(view, value, axis, node)
        carried.append((value, Affine(affine.scale[start:stop], affine.shift[start:stop], axis)))
        start = stop
    if start != affine.channels:
        raise mixes(node)
    return carried


def concat_down(view: GraphView, node: Node, slot: int, affine: Affine) -> Carried:
    """Joined with the identity for the other parts."""
    axis = _concat_axis(view, node)
    if axis != affine.axis or _adds_axis(node):
        detail = f"{node.op} {node.label!r} joins the normalised value with others along another axis"
        raise Miss(Reason.NO_LINEAR_LAYER, node, detail)
    starts = view.starts(node, axis)
    if starts is None or starts[-1] > MOST_ELEMENTS:
        raise sizes_unknown(node)
    own = slice(starts[slot], starts[slot + 1])
    if own.stop - own.start != affine.channels:
        raise mixes(node)
    scale, shift = np.ones(starts[-1]), np.zeros(starts[-1])
    scale[own], shift[own] = affine.scale, affine.shift
    return [(node.outputs[0], Affine(scale, shift, axis))]


def _concat_axis(view: GraphView, node: Node) -> int:
    if not isinstance(node.traits, ConcatTraits):
        raise TypeError(f"{node.label!r} is no concatenation")
    return node.traits.axis if node.traits.axis >= 0 else node.traits.axis + rank_of(view, node.outputs[0], node)


def _adds_axis(node: Node) -> bool:
    return isinstance(node.traits, ConcatTraits) and node.traits.adds_axis


def slice_up(view: GraphView, node: Node, output: str, affine: Affine) -> Carried:
    """What is cut away along the channels keeps the identity; along another axis nobody else may read it."""
    cuts = _cuts(view, node, node.outputs.index(output))
    if _drops_axis(node) and cuts[0].axis <= affine.axis:
        affine = Affine(affine.scale, affine.shift, affine.axis + 1)
    others_read = any(view.readers(value) or view.is_output(value) for value in node.outputs if value != output)
    if any(cut.axis != affine.axis for cut in cuts) and others_read:
        raise Miss(Reason.FAN_OUT, node, f"the other parts of {node.op} {node.label!r} are read too")
    for cut in cuts:
        if cut.axis == affine.axis:
            return [(node.data, _put_back(view, node, cut, affine))]
    return [(node.data, affine)]


def _put_back(view: GraphView, node: Node, cut: Cut, affine: Affine) -> Affine:
    """The affine of the whole axis of which ``affine`` acts on a part; a channel that is picked twice has one scale."""
    size = size_of(view, node.data, affine.axis, node)
    scale, shift = np.ones(size), np.zeros(size)
    if cut.positions is None or len(cut.positions) != affine.channels:
        raise mixes(node)
    positions = list(cut.positions)
    scale[positions], shift[positions] = affine.scale, affine.shift
    if not (np.array_equal(scale[positions], affine.scale) and np.array_equal(shift[positions], affine.shift)):
        raise mixes(node)
    return Affine(scale, shift, affine.axis)


def slice_down(view: GraphView, node: Node, slot: int, affine: Affine) -> Carried:
    """Each output takes what it holds of the affine."""
    if slot != 0:
        raise blocked(node)
    return [(output, _cut_out(view, node, position, affine)) for position, output in enumerate(node.outputs)]


def _cut_out(view: GraphView, node: Node, position: int, affine: Affine) -> Affine:
    for cut in _cuts(view, node, position):
        if cut.axis == affine.axis:
            if cut.positions is None or _drops_axis(node):
                raise mixes(node)
            chosen = list(cut.positions)
            return Affine(affine.scale[chosen], affine.shift[chosen], affine.axis)
        if cut.axis < affine.axis and _drops_axis(node):
            return Affine(affine.scale, affine.shift, affine.axis - 1)
    return affine


def _drops_axis(node: Node) -> bool:
    return isinstance(node.traits, SliceTraits) and node.traits.drops_axis


def _cuts(view: GraphView, node: Node, position: int) -> Sequence[Cut]:
    """What an output holds, axes counted from the front."""
    if not isinstance(node.traits, SliceTraits):
        raise TypeError(f"{node.label!r} is no slice")
    cuts = node.traits.cuts[position]
    if all(cut.axis >= 0 for cut in cuts):
        return cuts
    rank = rank_of(view, node.data, node)
    return [Cut(cut.axis % rank, cut.positions) for cut in cuts]


def add_down(view: GraphView, node: Node, slot: int, affine: Affine) -> Carried:
    """A sum passes a shift on, as often as it adds it; a scale only where every addend carries it, as in u + u."""
    rank = rank_of(view, node.outputs[0], node)
    own_rank = rank_of(view, node.inputs[slot] or "", node)
    axis = affine.axis + rank - own_rank
    uses = [position for position, value in enumerate(node.inputs) if value == node.inputs[slot]]
    if len(uses) < len(node.inputs) - node.inputs.count(None) and (affine.scale != 1).any():
        detail = f"{node.op} {node.label!r} adds a value that the batch norm does not scale"
        raise Miss(Reason.NO_LINEAR_LAYER, node, detail)
    if size_of(view, node.outputs[0], axis, node) != affine.channels:
        raise mixes(node)
    if slot != node.inputs.index(node.inputs[slot]):
        return []  # the first of equal addends speaks for all
    weights = weights_of(node)
    return [(node.outputs[0], Affine(affine.scale, affine.shift * sum(weights[position] for position in uses), axis))]
