"""How an affine crosses a node on its way to a layer, upward or downward, or why it may not.

Upward: given the affine on an output of the node, which affines on its inputs do the same? Downward: given the affine
on an input, which one on the outputs? Each kind of node has a row for either direction; a kind without one blocks.
"""

from __future__ import annotations

from collections.abc import Callable

from bnfold.core import layout
from bnfold.core.affine import Affine, Carried
from bnfold.core.graph import GraphView, Node, OpKind
from bnfold.core.obstacles import blocked, mixes, rank_of, sizes_unknown
from bnfold.core.parts import add_down, concat_down, concat_up, slice_down, slice_up
from bnfold.core.reason import Miss, Reason
from bnfold.core.scaling import run_down, run_up
from bnfold.core.traits import ChannelMap, PadTraits, Permute, PoolTraits, Reshape


def upward(view: GraphView, node: Node, output: str, affine: Affine) -> Carried:
    """The affines on inputs of ``node`` that do what ``affine`` does on ``output``. Raises Miss where there are none.

    A sum is no row here: its scale and its shift go different ways (``rules.pulling``).
    """
    row = UPWARD.get(node.kind)
    if row is None:
        raise blocked(node)
    return row(view, node, output, affine)


def downward(view: GraphView, node: Node, slot: int, affine: Affine) -> Carried:
    """The affines on outputs of ``node`` that ``affine`` on the input in ``slot`` becomes. Raises Miss."""
    row = DOWNWARD.get(node.kind)
    if row is None:
        raise blocked(node)
    return row(view, node, slot, affine)


def _layout_up(view: GraphView, node: Node, output: str, affine: Affine) -> Carried:
    return [(node.data, _laid_out(view, node, affine, output, node.data, upward=True))]


def _layout_down(view: GraphView, node: Node, slot: int, affine: Affine) -> Carried:
    if slot != 0:
        raise blocked(node)
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
            raise sizes_unknown(node)
        moved = layout.reshaped(affine, source, target)
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
    return [(node.data, _pooled(node, Affine(affine.scale, affine.shift, axis), axes))]


def _pool_down(view: GraphView, node: Node, slot: int, affine: Affine) -> Carried:
    if slot != 0:
        raise blocked(node)
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
    rank = rank_of(view, node.data, node)
    return tuple(sorted(axis % rank for axis in axes))


def _pooled(node: Node, affine: Affine, axes: tuple[int, ...]) -> Affine:
    """``affine``, if the pooling lets it pass."""
    traits = _pool(node)
    if affine.axis in axes:
        raise mixes(node)
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
    OpKind.LAYOUT: _layout_up,
    OpKind.POOL: _pool_up,
    OpKind.SCALE_SHIFT: run_up,
    OpKind.PAD: _pad_up,
    OpKind.CONCAT: concat_up,
    OpKind.SLICE: slice_up,
}
DOWNWARD: dict[OpKind, Callable[[GraphView, Node, int, Affine], Carried]] = {
    OpKind.LAYOUT: _layout_down,
    OpKind.POOL: _pool_down,
    OpKind.SCALE_SHIFT: run_down,
    OpKind.PAD: _pad_down,
    OpKind.CONCAT: concat_down,
    OpKind.SLICE: slice_down,
    OpKind.ADD: add_down,
}
