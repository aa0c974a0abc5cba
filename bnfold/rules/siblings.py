"""What it takes for one layer of a sum to do the work of another addend."""

from __future__ import annotations

import numpy as np

from bnfold.core.affine import Affine
from bnfold.core.graph import GraphView, Node, OpKind
from bnfold.core.kernel import input_channels, layer_constants, output_channels
from bnfold.core.parallel import layer_beside, mean_beside, one_tap, place_within
from bnfold.core.reason import Miss, Reason
from bnfold.core.steps import Join
from bnfold.core.traits import LayerTraits, Window
from bnfold.rules.addends import Mean, source_of
from bnfold.rules.landing import on_axis, require_channels, writable_layer
from bnfold.rules.readers import require_sole_reader


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
