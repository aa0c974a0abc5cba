"""Rule ``parallel-layers``: layers beside one another in a sum are one layer, and so is a batch norm beside them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from bnfold.core.affine import Affine
from bnfold.core.graph import SUM_KINDS, GraphView, Node, OpKind, Sums
from bnfold.core.reason import Miss, Reason
from bnfold.core.steps import Join
from bnfold.core.sums import weights_of
from bnfold.core.verdict import Edit, Fold, JoinedLayers, Leaving
from bnfold.rules.addends import (
    Addend,
    Mean,
    addends_of,
    branch_below,
    layers_among,
    leads_to_batch_norm,
    mean_behind,
    producer_behind,
    sole_reader,
    source_of,
    sum_around,
)
from bnfold.rules.landing import edit_of, require_silenceable
from bnfold.rules.siblings import layer_joins, mean_joins, require_unread_elsewhere


def parallel_layers(view: GraphView, bn: Node, affine: Affine) -> Fold:
    """Fold a batch norm, alone in its branch of a sum or behind a mean over a window, into a layer beside it.

    Legal when
      1. nothing but the sum reads the batch norm, or what plain copies and a mean over a window make of it;
      2. a layer among the other addends can do its work (``siblings.mean_joins``);
      3. it can be taken out of the sum or, where it cannot, be made to add nothing (``landing.require_silenceable``).
    A run of constants that is no batch norm goes only where one takes part.
    """
    value, window, below = branch_below(view, bn, affine)
    if view.sums is Sums.FIXED or all(use.node.kind not in SUM_KINDS for use in view.readers(value)):
        raise Miss(Reason.NO_LINEAR_LAYER, bn, "it is no addend of a sum")
    require_unread_elsewhere(view, below[-1] if below else bn)
    root = sum_around(view, value)
    addends = addends_of(view, root) if root else []
    layers = layers_among(view, addends)
    if not layers or (bn.kind is not OpKind.BATCH_NORM and not _batch_norm_takes_part(view, addends)):
        raise Miss(Reason.NO_LINEAR_LAYER, root, "no layer stands beside it in the sum")
    own = next(addend for addend in addends if addend.value == value)
    stays = ""
    if view.sums is Sums.DROP_BATCH_NORMS:
        require_silenceable(view, bn)
        stays = "the sum still reads it, and it adds zeros"
    mean, alone = mean_behind(view, bn.data) if window is None else (Mean(source_of(view, bn.data), window), ())
    misses: list[Miss] = []
    for beside, host in layers:
        weighted = affine.times(own.weight / beside.weight)
        try:
            if not stays:
                _require_separable(view, own, beside)
            edit = edit_of(view, host, mean_joins(view, host, replace(mean, affine=weighted)))
        except Miss as miss:
            misses.append(miss)
        else:
            leaving = Leaving(own.sum, own.slot, (*alone, *below))
            return Fold(bn, affine, "parallel-layers", (edit,), leaving=(leaving,), stays=stays)
    raise max(misses, key=lambda miss: miss.reason.code)


def _require_separable(view: GraphView, own: Addend, beside: Addend) -> None:
    """What is left of each sum on the way, once ``own`` is gone, is the sum of its other addends. Raises Miss.

    Of a difference it is what something is subtracted from; a mean divides by the number of its addends. A sum that
    ``beside`` is an addend of, which stays, is none itself that could go.
    """
    node: Node | None = own.sum
    slot = own.slot
    while node is not None and node.kind in SUM_KINDS:
        if any(weight != 1 for place, weight in enumerate(weights_of(node)) if place != slot):
            raise Miss(Reason.NO_LINEAR_LAYER, node, f"{node.op} {node.label!r} is no sum of its other addends")
        if any(addend.value == beside.value for addend in addends_of(view, node, {OpKind.ADD})):
            return
        value = node.outputs[0]
        node = sole_reader(view, value)
        slot = node.inputs.index(value) if node is not None else 0


def join_layers(view: GraphView, *, everywhere: bool) -> list[JoinedLayers]:
    """The sums of layers that become one layer: where a batch norm takes part, or ``everywhere``.

    One takes part where a layer of the sum swallowed it, or where the sum leads to it alone.
    """
    if view.sums is not Sums.JOIN_LAYERS:
        return []
    joined: list[JoinedLayers] = []
    for root in view.nodes:
        if root.kind is not OpKind.ADD or _is_part_of_sum(view, root):
            continue
        for total, addends in _within_reach(view, root):
            wanted = everywhere or leads_to_batch_norm(view, total.outputs[0])
            joined += _joined_in(view, addends, wanted=wanted)
    return joined


def _is_part_of_sum(view: GraphView, node: Node) -> bool:
    reader = sole_reader(view, node.outputs[0])
    return reader is not None and reader.kind is OpKind.ADD


def _within_reach(view: GraphView, root: Node) -> Iterator[tuple[Node, list[Addend]]]:
    """A sum with its addends; where it is one of too many, the largest sums in it that are not."""
    pending = [root]
    while pending:
        total = pending.pop()
        addends = addends_of(view, total, {OpKind.ADD})
        if addends:
            yield total, addends
            continue
        inner = (view.producer(value) for value in total.inputs if value is not None)
        pending += [node for node in inner if node and node.kind is OpKind.ADD and _is_part_of_sum(view, node)]


def _joined_in(view: GraphView, addends: list[Addend], *, wanted: bool) -> list[JoinedLayers]:
    """What becomes of one sum: each layer, the largest first, takes in whatever it can."""
    joined: list[JoinedLayers] = []
    for own, host in layers_among(view, addends):
        if own not in addends:
            continue
        others = [addend for addend in addends if addend is not own]
        found = _taken_in(view, host, others)
        nodes = [host, *(producer_behind(view, addend.value)[0] for addend in found)]
        if found and (wanted or any(node is not None and node.index in view.normalised for node in nodes)):
            leaving = tuple(Leaving(addend.sum, addend.slot, alone) for addend, (_, alone) in found.items())
            joined.append(JoinedLayers(Edit(host, tuple(join for join, _ in found.values())), leaving))
            addends = [addend for addend in others if addend not in found]
    return joined


def _taken_in(view: GraphView, host: Node, others: list[Addend]) -> dict[Addend, tuple[Join, tuple[Node, ...]]]:
    """The addends whose work ``host`` can do, each with how, and with the nodes that go with it."""
    found: dict[Addend, tuple[Join, tuple[Node, ...]]] = {}
    for addend in others:
        try:
            join, alone = _join_of(view, host, addend)
            edit_of(view, host, *(join for join, _ in found.values()), join)
        except Miss:
            continue  # it stays an addend
        found[addend] = join, alone
    return found


def _join_of(view: GraphView, host: Node, addend: Addend) -> tuple[Join, tuple[Node, ...]]:
    """How ``host`` does the work of an addend: of a layer, a mean, or the value that the host reads. Raises Miss."""
    node, copies = producer_behind(view, addend.value)
    if node is not None and node.kind is host.kind:
        return layer_joins(view, host, node), (node, *copies)
    mean, alone = mean_behind(view, addend.value)
    if mean.source != source_of(view, host.data):
        raise Miss(Reason.UNLIKE_SIBLING, host, "it reads another value")
    return mean_joins(view, host, mean), alone


def _batch_norm_takes_part(view: GraphView, addends: list[Addend]) -> bool:
    nodes = [view.producer(addend.value) for addend in addends]
    return any(node is not None and (node.kind is OpKind.BATCH_NORM or node.index in view.normalised) for node in nodes)
