"""The addends of a sum: what it adds up through sums within it, and what each addend is, behind copies and means."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from bnfold.core.affine import Affine
from bnfold.core.graph import SUM_KINDS, GraphView, Node, OpKind
from bnfold.core.sums import weights_of
from bnfold.core.traits import LayerTraits, PoolTraits, Window

MOST_ADDENDS = 64
"""A sum of more is left as it is: each batch norm in it would look through all of it."""
HOSTS = frozenset({OpKind.CONV, OpKind.LINEAR})
PASSING = frozenset({OpKind.LAYOUT, OpKind.POOL, OpKind.PAD})


@dataclass(frozen=True, eq=False)
class Addend:
    """One value that a sum reads, and on which slot; the sum may be an addend of another sum.

    ``weight`` is what the outermost sum multiplies it by in all.
    """

    sum: Node
    slot: int
    value: str
    weight: float = 1.0


@dataclass(frozen=True, eq=False)
class Mean:
    """``affine`` (None: the identity) of the mean of ``source`` over ``window``, or of ``source`` itself."""

    source: str
    window: Window | None
    affine: Affine | None = None


def sum_around(view: GraphView, value: str) -> Node | None:
    """The outermost sum that ``value`` is an addend of; None where it is none, or one of too many."""
    root, depth = None, 0
    while (reader := sole_reader(view, value)) is not None and reader.kind in SUM_KINDS:
        root, value, depth = reader, reader.outputs[0], depth + 1
        if depth > MOST_ADDENDS:
            return None
    return root


def addends_of(view: GraphView, root: Node, kinds: Collection[OpKind] = SUM_KINDS) -> list[Addend]:
    """What ``root`` adds up, in order, through sums of ``kinds`` that serve it alone; nothing if it is too much."""
    addends: list[Addend] = []
    pending = [(root, 1.0)]
    while pending:
        node, factor = pending.pop()
        if len(node.inputs) > MOST_ADDENDS:
            return []
        for slot, (value, weight) in enumerate(zip(node.inputs, weights_of(node), strict=True)):
            if value is None:
                continue
            inner = view.producer(value)
            if inner is not None and inner.kind in kinds and sole_reader(view, value) is not None:
                pending.append((inner, factor * weight))
            else:
                addends.append(Addend(node, slot, value, factor * weight))
        if len(addends) + len(pending) > MOST_ADDENDS:
            return []
    return addends


def sole_reader(view: GraphView, value: str) -> Node | None:
    """The one node that reads ``value``, once; None where there are others, or the caller receives it."""
    readers = view.readers(value)
    return readers[0].node if len(readers) == 1 and not view.is_output(value) else None


def source_of(view: GraphView, value: str) -> str:
    """``value``, or what it is a plain copy of."""
    while (node := view.producer(value)) is not None and _is_copy(node):
        value = node.data
    return value


def _is_copy(node: Node) -> bool:
    """Whether a node changes nothing and moves nothing."""
    return node.kind is OpKind.LAYOUT and node.traits is None


def producer_behind(view: GraphView, value: str) -> tuple[Node | None, tuple[Node, ...]]:
    """What computes ``value``, behind plain copies that serve nobody else; and those copies."""
    copies: list[Node] = []
    while (node := view.producer(value)) is not None and _is_copy(node) and sole_reader(view, value) is not None:
        copies.append(node)
        value = node.data
    return node, tuple(copies)


def window_mean(node: Node) -> PoolTraits | None:
    """The traits of a mean over a window that a layer could take; None for any other node."""
    return node.traits if isinstance(node.traits, PoolTraits) and node.traits.window is not None else None


def mean_behind(view: GraphView, value: str) -> tuple[Mean, tuple[Node, ...]]:
    """``value`` as a mean over a window, with the nodes that serve nobody else; or as what it is."""
    node, copies = producer_behind(view, value)
    value = copies[-1].data if copies else value
    pool = window_mean(node) if node is not None else None
    if node is None or pool is None or sole_reader(view, value) is None:
        return Mean(source_of(view, value), None), copies
    return Mean(source_of(view, node.data), pool.window), (node, *copies)


def branch_below(view: GraphView, bn: Node, affine: Affine) -> tuple[str, Window | None, tuple[Node, ...]]:
    """What a batch norm is by the end of its branch: the value there, the window of a mean, the nodes on the way.

    Those are plain copies, and one mean over a window, if the batch norm may as well stand behind it.
    """
    value, window = bn.outputs[0], None
    crossed: list[Node] = []
    while (node := sole_reader(view, value)) is not None:
        pool = window_mean(node)
        if pool is not None and window is None and (pool.keeps_shift or not affine.shift.any()):
            window = pool.window
        elif not _is_copy(node):
            break
        crossed.append(node)
        value = node.outputs[0]
    return value, window, tuple(crossed)


def leads_to_batch_norm(view: GraphView, value: str) -> bool:
    """Whether nothing but a batch norm reads ``value``, behind what lets its affine pass where that can pass."""
    while (node := sole_reader(view, value)) is not None and node.kind in PASSING:
        value = node.outputs[0]
    return node is not None and node.kind is OpKind.BATCH_NORM


def layers_among(view: GraphView, addends: Iterable[Addend]) -> list[tuple[Addend, Node]]:
    """The layers that could take in others, the largest kernel first."""
    produced = ((addend, producer_behind(view, addend.value)[0]) for addend in addends)
    layers = [(addend, node) for addend, node in produced if node is not None and node.kind in HOSTS]
    return sorted(layers, key=lambda item: -_taps(item[1]))


def _taps(layer: Node) -> int:
    window = layer.traits.window if isinstance(layer.traits, LayerTraits) else None
    return math.prod(window.kernel) if window else 0
