"""How an affine crosses a node on its way to a layer, upward or downward, or why it may not.

Upward: given the affine on an output of the node, which affines on its inputs do the same? Downward: given the affine
on an input, which one on the outputs? Each kind of node has a row for either direction; a kind without one blocks.
What an affine becomes between two reshapes, a ``layout.Spread``, crosses layout alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from bnfold.core import layout
from bnfold.core.affine import Affine
from bnfold.core.graph import GraphView, Node, OpKind
from bnfold.core.layout import MOST_ELEMENTS, Carried, Spread
from bnfold.core.obstacles import blocked, mixes, per_channel, rank_of, size_of, sizes_unknown
from bnfold.core.parts import add_down, concat_down, concat_up, slice_down, slice_up
from bnfold.core.reason import Miss, Reason
from bnfold.core.scaling import run_down, run_up
from bnfold.core.traits import ChannelMap, PadTraits, Permute, PoolTraits, Reshape


def upward(view: GraphView, node: Node, output: str, carried: Affine | Spread) -> Carried:
    """What inputs of ``node`` must take, to do what ``carried`` does on ``output``. Raises Miss where nothing does.

    A sum is no row here: its scale and its shift go different ways (``rules.pulling``).
    """
    if node.kind is OpKind.LAYOUT:
        return [(node.data, _laid_out(view, node, carried, output, node.data, upward=True))]
    affine = per_channel(carried)
    row = UPWARD.get(node.kind)
    if row is None:
        raise blocked(node, " above")
    return row(view, node, output, affine)


def downward(view: GraphView, node: Node, slot: int, carried: Affine | Spread) -> Carried:
    """What ``carried`` on the input in ``slot`` becomes on the outputs of ``node``. Raises Miss."""
    if node.kind is OpKind.LAYOUT and slot == 0:
        return [(node.outputs[0], _laid_out(view, node, carried, node.data, node.outputs[0], upward=False))]
    affine = per_channel(carried)
    row = DOWNWARD.get(node.kind)
    if row is None:
        raise blocked(node, " below")
    return row(view, node, slot, affine)


def _laid_out(
    view: GraphView, node: Node, carried: Affine | Spread, here: str, there: str, *, upward: bool
) -> Affine | Spread:
    """``carried``, which acts on ``here``, as it acts on the same elements in ``there``."""
    traits = node.traits
    moved: Affine | Spread | None = carried
    if isinstance(traits, Permute):
        moved = layout.permuted(carried, traits, node, upward=upward)
    elif isinstance(traits, ChannelMap):
        moved = layout.rearranged(per_channel(carried), traits, upward=upward)
    elif isinstance(traits, Reshape):
        source, target = view.shape(here), view.shape(there)
        if source is None or target is None:
            raise sizes_unknown(node)
        moved = layout.reshaped(carried, source, target, node)
        if moved is None and not all(isinstance(size, int) for size in (*source[1:], *target[1:])):
            raise sizes_unknown(node)
    if moved is None:
        raise mixes(node)
    return moved


def _pool_up(view: GraphView, node: Node, output: str, affine: Affine) -> Carried:
    del output
    axes = _pooled_axes(view, node, affine)
    axis = affine.axis
    if not _pool(node).keeps_axes:
        kept = [
            position for position in range(len(axes) + rank_of(view, node.outputs[0], node)) if position not in axes
        ]
        axis = kept[affine.axis]
    passed = _pooled(view, node, Affine(affine.scale, affine.shift, axis), axes, node.data)
    return [(node.data, Affine(passed.scale, passed.shift / _added_up(view, node, passed, axes), axis))]


def _pool_down(view: GraphView, node: Node, slot: int, affine: Affine) -> Carried:
    if slot != 0:
        raise blocked(node)
    axes = _pooled_axes(view, node, affine)
    moved = _pooled(view, node, affine, axes, node.outputs[0])
    axis = affine.axis if _pool(node).keeps_axes else affine.axis - sum(axis < affine.axis for axis in axes)
    return [(node.outputs[0], Affine(moved.scale, moved.shift * _added_up(view, node, moved, axes), axis))]


def _added_up(view: GraphView, node: Node, affine: Affine, axes: tuple[int, ...]) -> int:
    """How often a shift is in a sum, which must be known where there is one; in a mean it is once."""
    if not _pool(node).is_sum or not affine.shift.any():
        return 1
    shape = view.shape(node.data) or ()
    sizes = [size for axis, size in enumerate(shape) if axis in axes and isinstance(size, int)]
    count = math.prod(sizes)
    if len(sizes) < len(axes) or not 0 < count <= MOST_ELEMENTS:
        raise Miss(Reason.NO_LINEAR_LAYER, node, f"{node.op} {node.label!r} adds up a shift nobody knows how often")
    return count


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
    rank = rank_of(view, node.data, node)
    return tuple(sorted(axis % rank for axis in axes))


def _pooled(view: GraphView, node: Node, affine: Affine, axes: tuple[int, ...], there: str) -> Affine:
    """``affine`` on the other side of a pooling, ``there``, if it lets that pass.

    Over the channels themselves it does so where all of them have the same scale and shift.
    """
    traits = _pool(node)
    if affine.axis in axes:
        if not (affine.is_uniform and traits.keeps_axes):
            raise mixes(node)
        affine = affine.spread(affine.axis, size_of(view, there, affine.axis, node))
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
        raise blocked(node)
    return [(node.outputs[0], _padded(view, node, affine))]


def _padded(view: GraphView, node: Node, affine: Affine) -> Affine:
    """Zeros stay zeros under a scale, and not under a shift."""
    if not isinstance(node.traits, PadTraits):
        raise TypeError(f"{node.label!r} is no padding")
    axes = node.traits.axes
    if any(axis < 0 for axis in axes):
        rank = rank_of(view, node.data, node)
        axes = tuple(axis % rank for axis in axes)
    if affine.axis in axes:
        raise mixes(node)
    if node.traits.with_zeros and affine.shift.any():
        raise Miss(Reason.PADDED_INPUT, node, f"{node.op} {node.label!r} pads with zeros, which a shift would change")
    return affine


UPWARD: dict[OpKind, Callable[[GraphView, Node, str, Affine], Carried]] = {
    OpKind.POOL: _pool_up,
    OpKind.SCALE_SHIFT: run_up,
    OpKind.PAD: _pad_up,
    OpKind.CONCAT: concat_up,
    OpKind.SLICE: slice_up,
}
DOWNWARD: dict[OpKind, Callable[[GraphView, Node, int, Affine], Carried]] = {
    OpKind.POOL: _pool_down,
    OpKind.SCALE_SHIFT: run_down,
    OpKind.PAD: _pad_down,
    OpKind.CONCAT: concat_down,
    OpKind.SLICE: slice_down,
    OpKind.ADD: add_down,
    OpKind.WEIGHTED_SUM: add_down,
}
