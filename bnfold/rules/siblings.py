"""The addends of a sum, and what it takes for one layer among them to do the work of another one."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from dataclasses import dataclass

import numpy as np

from bnfold.core.affine import Affine
from bnfold.core.graph import GraphView, Node, OpKind
from bnfold.core.kernel import input_channels, layer_constants, output_channels
from bnfold.core.parallel import layer_beside, mean_beside, one_tap, place_within
from bnfold.core.reason import Miss, Reason
from bnfold.core.steps import Join
from bnfold.core.sums import weights_of
from bnfold.core.traits import LayerTraits, PoolTraits, Window
from bnfold.rules.landing import on_axis, require_channels, writable_layer
from bnfold.rules.readers import require_sole_reader

MOST_ADDENDS = 64
"""A sum of more is left as it is: each batch norm in it would look through all of it."""
HOSTS = frozenset({OpKind.CONV, OpKind.LINEAR})
SUMS = frozenset({OpKind.ADD, OpKind.WEIGHTED_SUM})
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
    while (reader := sole_reader(view, value)) is not None and reader.kind in SUMS:
        root, value, depth = reader, reader.outputs[0], depth + 1
        if depth > MOST_ADDENDS:
            return None
    return root


def addends_of(view: GraphView, root: Node, kinds: Collection[OpKind] = SUMS) -> list[Addend]:
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


def _window_mean(node: Node) -> PoolTraits | None:
    """The traits of a mean over a window that a layer could take; None for any other node."""
    return node.traits if isinstance(node.traits, PoolTraits) and node.traits.window is not None else None


def mean_behind(view: GraphView, value: str) -> tuple[Mean, tuple[Node, ...]]:
    """``value`` as a mean over a window, with the nodes that serve nobody else; or as what it is."""
    node, copies = producer_behind(view, value)
    value = copies[-1].data if copies else value
    pool = _window_mean(node) if node is not None else None
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
        pool = _window_mean(node)
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


def require_unread_elsewhere(view: GraphView, node: Node) -> None:
    """Nothing but the sum may read the result of an addend that changes, or goes."""
    require_sole_reader(view, node.outputs[0], node)


def mean_joins(view: GraphView, host: Node, mean: Mean) -> Join:
    """How ``host`` does the work of ``mean``, which stands beside it in a sum. Raises Miss.

    Legal when
      1. ``host`` may be rewritten, and nothing but the sum reads its result;
      2. both read the same value;
      3. the host moves by 1, and its kernel holds the window, at paddings that keep the size;
      4. it has as many outputs as inputs, which are the channels of the affine.
    """
    traits = _host_traits(view, host, mean.source)
    weight, _, _ = layer_constants(view, host)
    channels = output_channels(traits, weight.shape)
    if channels != input_channels(traits, weight.shape) or traits.channel_axis != traits.input_axis:
        raise _unlike(host, "has other output channels than input channels")
    affine = mean.affine or Affine(np.ones(channels), np.zeros(channels), traits.channel_axis)
    if mean.affine is not None:
        affine = on_axis(view, host, host.outputs[0], affine, axis=traits.channel_axis, channels=channels)
        require_channels(host, channels, "output", affine)
    if host.kind is OpKind.LINEAR:
        if mean.window is not None:
            raise _unlike(host, "is no convolution, which a mean over a window would be")
        return mean_beside(affine, (), 1, ())
    outer = _window(host, traits)
    inner = mean.window or one_tap(outer)
    place = place_within(inner, outer)
    if place is None:
        raise _unlike(host, f"moves otherwise: {described(outer)} beside {described(inner)}")
    return mean_beside(affine, inner.kernel, traits.groups, place)


def layer_joins(view: GraphView, host: Node, sibling: Node) -> Join:
    """How ``host`` does the work of another layer, ``sibling``, beside it in a sum. Raises Miss.

    Legal as ``mean_joins``, with equal strides, groups and channels, and when
      5. the sibling's weight and bias are constants, and nothing but the sum reads its result.
    """
    require_unread_elsewhere(view, sibling)
    own, other = _host_traits(view, host, source_of(view, sibling.data)), writable_layer(view, sibling)
    shapes = layer_constants(view, host)[0].shape, layer_constants(view, sibling)[0].shape
    if host.kind is not sibling.kind or own.groups != other.groups or _axes(own) != _axes(other):
        raise _unlike(host, f"is another kind of layer than {sibling.label!r}")
    for channels in (output_channels, input_channels):
        if channels(own, shapes[0]) != channels(other, shapes[1]):
            raise _unlike(host, f"has other channels than {sibling.label!r}")
    if host.kind is OpKind.LINEAR:
        return layer_beside(view, sibling, ())
    place = place_within(_window(sibling, other), _window(host, own))
    if place is None:
        raise _unlike(host, f"moves otherwise than {sibling.label!r}")
    return layer_beside(view, sibling, place)


def described(window: Window) -> str:
    """``kernel 3×3, stride 2×2, padding 1×1``; padding and dilation as far as there are any."""
    parts = [("kernel", window.kernel, 0), ("stride", window.strides, 0), ("dilation", window.dilations, 1)]
    if window.before == window.after:
        parts.append(("padding", window.before, 0))
    else:
        parts += [("padding before", window.before, 0), ("padding after", window.after, 0)]
    return ", ".join(f"{name} {'×'.join(map(str, sizes))}" for name, sizes, usual in parts if set(sizes) != {usual})


def _host_traits(view: GraphView, host: Node, source: str) -> LayerTraits:
    """The traits of a layer that may take in what stands beside it and reads ``source``."""
    require_unread_elsewhere(view, host)
    traits = writable_layer(view, host)
    if source_of(view, host.data) != source:
        raise _unlike(host, "reads another value")
    if traits.gain == 0:
        raise _unlike(host, "multiplies its weight by 0")
    return traits


def _window(layer: Node, traits: LayerTraits) -> Window:
    if traits.window is None:
        raise _unlike(layer, "has a padding that depends on the size of its input")
    return traits.window


def _axes(traits: LayerTraits) -> tuple[int, int]:
    """The axes of the channels; in a matrix, the last one is axis 1."""
    axes = (traits.channel_axis, traits.input_axis)
    return (1, 1) if axes == (-1, -1) else axes


def _unlike(layer: Node, what: str) -> Miss:
    return Miss(Reason.UNLIKE_SIBLING, layer, f"{layer.op} {layer.label!r}, beside it in the sum, {what}")
