"""What stops an affine on its way, in words; and the ranks and sizes that its way depends on."""

from __future__ import annotations

from bnfold.core.affine import Affine
from bnfold.core.graph import GraphView, Node, OpKind
from bnfold.core.layout import MOST_ELEMENTS, Spread
from bnfold.core.reason import Miss, Reason


def blocked(node: Node, where: str = "") -> Miss:
    """Nothing crosses this node. What its front end knows of it says why."""
    reason, why = Reason.NO_LINEAR_LAYER, ""
    if node.lock and node.kind is OpKind.OPAQUE:
        reason, why = node.lock.reason, f" ({node.lock.detail})"
    return Miss(reason, node, f"{node.op} {node.label!r} lies between the batch norm and any layer{where}{why}")


def mixes(node: Node) -> Miss:
    """On the other side one channel would need two values."""
    return Miss(Reason.LAYOUT_MOVES_CHANNELS, node, f"{node.op} {node.label!r} mixes the channels")


def sizes_unknown(node: Node) -> Miss:
    """Nobody knows where the channels go."""
    detail = f"sizes are unknown at {node.op} {node.label!r}: where the channels go cannot be told"
    return Miss(Reason.LAYOUT_MOVES_CHANNELS, node, detail)


def per_channel(carried: Affine | Spread) -> Affine:
    """What arrives at a node that only an affine per channel can cross or end in. Raises Miss."""
    if isinstance(carried, Spread):
        raise mixes(carried.by)
    return carried


def rank_of(view: GraphView, value: str, node: Node) -> int:
    """The number of axes of ``value``, which ``node`` touches. Raises Miss where it is unknown."""
    shape = view.shape(value)
    if shape is None:
        raise sizes_unknown(node)
    return len(shape)


def size_of(view: GraphView, value: str, axis: int, node: Node) -> int:
    """The size of ``value`` along ``axis``. Raises Miss where it is unknown, or no real one."""
    shape = view.shape(value)
    size = shape[axis] if shape is not None and axis < len(shape) else None
    if not isinstance(size, int) or size > MOST_ELEMENTS:
        raise sizes_unknown(node)
    return size
