"""How an affine crosses a node on its way to a layer, upward or downward, or why it may not.

Upward: given the affine on an output of the node, which affines on its inputs do the same? Downward: given the affine
on an input, which one on the outputs? Each kind of node has a row for either direction; a kind without one blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from bnfold.core import layout
from bnfold.core.affine import Affine
from bnfold.core.graph import GraphView, Node, OpKind
from bnfold.core.reason import Miss, Reason
from bnfold.core.traits import ChannelMap, ConcatTraits, Cut, PadTraits, Permute, PoolTraits, Reshape, SliceTraits

Carried = list[tuple[str, Affine]]
"""Values, and the affine that each must take."""


def upward(view: GraphView, node: Node, output: str, affine: Affine) -> Carried:
    """The affines on inputs of ``node`` that do what ``affine`` does on ``output``. Raises Miss where there are none.

    A sum is no row here: its scale and its shift go different ways (``rules.absorb_above``).
    """
    row = UPWARD.get(node.kind)
    if row is None:
        raise _blocked(node)
    return row(view, node, output, affine)


def downward(view: GraphView, node: Node, slot: int, affine: Affine) -> Carried:
    """The affines on outputs of ``node`` that ``affine`` on the input in ``slot`` becomes. Raises Miss."""
    row = DOWNWARD.get(node.kind)
    if row is None:
        raise _blocked(node)
    return row(view, node, slot, affine)


def _blocked(node: Node) -> Miss:
    return Miss(Reason.NO_LINEAR_LAYER, node, f"{node.op} {node.label!r} lies between the batch norm and any layer")


def _moved(node: Node) -> Miss:
    return Miss(Reason.LAYOUT_MOVES_CHANNELS, node, f"{node.op} {node.label!r} mixes the channels")


def _unknown(node: Node) -> Miss:
    detail = f"sizes are unknown at {node.op} {node.label!r}: where the channels go cannot be told"
    return Miss(Reason.LAYOUT_MOVES_CHANNELS, node, detail)


def _layout_up(view: GraphView, node: Node, output: str, affine: Affine) -> Carried:
    return [(node.data, _laid_out(view, node, affine, output, node.data, upward=True))]


def _layout_down(view: GraphView, node: Node, slot: int, affine: Affine) -> Carried:
    if slot != 0:
        raise _blocked(node)
    return [(node.outputs[0], _laid_out(view, node, affine, node.data, node.outputs[0], upward=False))]


def _laid_out(view: GraphView, node: Node, affine: Affine, here: str, there: str, *, upward: bool) -> Affine:
    """``affine``, which acts on ``here``, as it acts on the same elements in ``there``."""
    traits = node.traits
    moved: Affine | None = affine
    if isinstance(traits, Permute):
        moved = layout.permuted(affine, traits, upward=upward) if affine.axis < len(traits.axes) else None
    elif isinstance(traits, ChannelMap):
        moved = layout.rearranged(affine, traits, upward=upward)
    elif isinstance(traits, Reshape):
        source, target = view.shape(here), view.shape(there)
        if source is None or target is None:
            raise _unknown(node)
        moved = layout.reshaped(affine, source, target)
        if moved is None and not all(isinstance(size, int) for size in (*source[1:], *target[1:])):
            raise _unknown(node)
    if moved is None:
        raise _moved(node)
    return moved


def _pool_up(view: GraphView, node: Node, output: str, affine: Affine) -> Carried:
    del output
    axes = _pooled_axes(view, node, affine)
    axis = affine.axis
    if not _pool(node).keeps_axes:
        kept = [position for position in range(len(axes) + _rank(view, node.outputs[0], node)) if position not in axes]
        axis = kept[affine.axis]
    return [(node.data, _pooled(node, Affine(affine.scale, affine.shift, axis), axes))]


def _pool_down(view: GraphView, node: Node, slot: int, affine: Affine) -> Carried:
    if slot != 0:
        raise _blocked(node)
    axes = _pooled_axes(view, node, affine)
    moved = _pooled(node, affine, axes)
    axis = affine.axis if _pool(node).keeps_axes else affine.axis - sum(axis < affine.axis for axis in axes)
    return [(node.outputs[0], Affine(moved.scale, moved.shift, axis))]


def _pool(node: Node) -> PoolTraits:
    if not isinstance(node.traits, PoolTraits):
        raise TypeError(f"{node.label!r} is no pooling")
    return node.traits


def _pooled_axes(view: GraphView, node: Node, affine: Affine) -> tuple[int, ...]:
    """The axes that are pooled, counted from the front."""
    axes = _pool(node).axes
    if axes is None:
        return tuple(range(2, max(3, affine.axis + 1)))
    if all(axis >= 0 for axis in axes):
        return axes
    rank = _rank(view, node.data, node)
    return tuple(sorted(axis % rank for axis in axes))


def _pooled(node: Node, affine: Affine, axes: tuple[int, ...]) -> Affine:
    """``affine``, if the pooling lets it pass."""
    traits = _pool(node)
    if affine.axis in axes:
        raise _moved(node)
    if traits.is_max and (affine.scale < 0).any():
        raise Miss(Reason.NO_LINEAR_LAYER, node, f"{node.op} {node.label!r} takes the maximum, and a scale is negative")
    if not traits.keeps_shift and affine.shift.any():
        raise Miss(Reason.PADDED_INPUT, node, f"{node.op} {node.label!r} counts padding with zeros in its means")
    return affine


def _pad_up(view: GraphView, node: Node, output: str, affine: Affine) -> Carried:
    del output
    return [(node.data, _padded(view, node, affine))]


def _pad_down(view: GraphView, node: Node, slot: int, affine: Affine) -> Carried:
    if slot != 0:
        raise _blocked(node)
    return [(node.outputs[0], _padded(view, node, affine))]


def _padded(view: GraphView, node: Node, affine: Affine) -> Affine:
    """Zeros stay zeros under a scale, and not under a shift."""
    if not isinstance(node.traits, PadTraits):
        raise TypeError(f"{node.label!r} is no padding")
    axes = node.traits.axes
    if any(axis < 0 for axis in axes):
        rank = _rank(view, node.data, node)
        axes = tuple(axis % rank for axis in axes)
    if affine.axis in axes:
        raise _moved(node)
    if node.traits.with_zeros and affine.shift.any():
        raise Miss(Reason.PADDED_INPUT, node, f"{node.op} {node.label!r} pads with zeros, which a shift would change")
    return affine


def _concat_up(view: GraphView, node: Node, output: str, affine: Affine) -> Carried:
    del output
    axis = _concat_axis(view, node)
    sources = [value for value in node.inputs if value is not None]
    if axis != affine.axis:
        return [(value, affine) for value in sources]
    carried, start = [], 0
    for value in sources:
        stop = start + _size(view, value, axis, node)
        carried.append((value, Affine(affine.scale[start:stop], affine.shift[start:stop], axis)))
        start = stop
    if start != affine.channels:
        raise _moved(node)
    return carried


def _concat_down(view: GraphView, node: Node, slot: int, affine: Affine) -> Carried:
    axis = _concat_axis(view, node)
    if axis != affine.axis:
        detail = f"{node.op} {node.label!r} joins the normalised value with others along another axis"
        raise Miss(Reason.NO_LINEAR_LAYER, node, detail)
    parts = []
    for position, value in enumerate(node.inputs):
        size = _size(view, value or "", axis, node)
        parts.append(affine if position == slot else Affine(np.ones(size), np.zeros(size), axis))
    scale, shift = (np.concatenate([getattr(part, name) for part in parts]) for name in ("scale", "shift"))
    return [(node.outputs[0], Affine(scale, shift, axis))]


def _concat_axis(view: GraphView, node: Node) -> int:
    if not isinstance(node.traits, ConcatTraits):
        raise TypeError(f"{node.label!r} is no concatenation")
    return node.traits.axis if node.traits.axis >= 0 else node.traits.axis + _rank(view, node.outputs[0], node)


def _slice_up(view: GraphView, node: Node, output: str, affine: Affine) -> Carried:
    """What is cut away along the channels keeps the identity; along another axis nobody else may read it."""
    cuts = _cuts(view, node, node.outputs.index(output))
    others_read = any(view.readers(value) or view.is_output(value) for value in node.outputs if value != output)
    if any(cut.axis != affine.axis for cut in cuts) and others_read:
        raise Miss(Reason.FAN_OUT, node, f"the other parts of {node.op} {node.label!r} are read too")
    for cut in cuts:
        if cut.axis == affine.axis:
            size = _size(view, node.data, affine.axis, node)
            scale, shift = np.ones(size), np.zeros(size)
            if cut.positions is None or len(cut.positions) != affine.channels:
                raise _moved(node)
            scale[list(cut.positions)], shift[list(cut.positions)] = affine.scale, affine.shift
            return [(node.data, Affine(scale, shift, affine.axis))]
    return [(node.data, affine)]


def _slice_down(view: GraphView, node: Node, slot: int, affine: Affine) -> Carried:
    if slot != 0:
        raise _blocked(node)
    return [(output, _cut_out(view, node, position, affine)) for position, output in enumerate(node.outputs)]


def _cut_out(view: GraphView, node: Node, position: int, affine: Affine) -> Affine:
    for cut in _cuts(view, node, position):
        if cut.axis == affine.axis:
            if cut.positions is None:
                raise _moved(node)
            chosen = list(cut.positions)
            return Affine(affine.scale[chosen], affine.shift[chosen], affine.axis)
    return affine


def _cuts(view: GraphView, node: Node, position: int) -> Sequence[Cut]:
    """What an output holds, axes counted from the front."""
    if not isinstance(node.traits, SliceTraits):
        raise TypeError(f"{node.label!r} is no slice")
    cuts = node.traits.cuts[position]
    if all(cut.axis >= 0 for cut in cuts):
        return cuts
    rank = _rank(view, node.data, node)
    return [Cut(cut.axis % rank, cut.positions) for cut in cuts]


def _add_down(view: GraphView, node: Node, slot: int, affine: Affine) -> Carried:
    """A sum passes a shift on; a scale only where every addend carries it, as in u + u."""
    rank = _rank(view, node.outputs[0], node)
    own_rank = _rank(view, node.inputs[slot] or "", node)
    axis = affine.axis + rank - own_rank
    uses = sum(value == node.inputs[slot] for value in node.inputs)
    if uses < len(node.inputs) and (affine.scale != 1).any():
        detail = f"{node.op} {node.label!r} adds a value that the batch norm does not scale"
        raise Miss(Reason.NO_LINEAR_LAYER, node, detail)
    if _size(view, node.outputs[0], axis, node) != affine.channels:
        raise _moved(node)
    if slot != node.inputs.index(node.inputs[slot]):
        return []  # the first of equal addends speaks for all
    return [(node.outputs[0], Affine(affine.scale, affine.shift * uses, axis))]


def _rank(view: GraphView, value: str, node: Node) -> int:
    shape = view.shape(value)
    if shape is None:
        raise _unknown(node)
    return len(shape)


def _size(view: GraphView, value: str, axis: int, node: Node) -> int:
    shape = view.shape(value)
    size = shape[axis] if shape is not None and axis < len(shape) else None
    if not isinstance(size, int):
        raise _unknown(node)
    return size


UPWARD: dict[OpKind, Callable[[GraphView, Node, str, Affine], Carried]] = {
    OpKind.LAYOUT: _layout_up,
    OpKind.POOL: _pool_up,
    OpKind.PAD: _pad_up,
    OpKind.CONCAT: _concat_up,
    OpKind.SLICE: _slice_up,
}
DOWNWARD: dict[OpKind, Callable[[GraphView, Node, int, Affine], Carried]] = {
    OpKind.LAYOUT: _layout_down,
    OpKind.POOL: _pool_down,
    OpKind.PAD: _pad_down,
    OpKind.CONCAT: _concat_down,
    OpKind.SLICE: _slice_down,
    OpKind.ADD: _add_down,
}
