"""Rule ``absorb-above``: pull the affine up until a layer swallows it."""

from __future__ import annotations

from bnfold.core import carry
from bnfold.core.affine import Affine
from bnfold.core.graph import LAYERS, GraphView, LayerTraits, Node
from bnfold.core.kernel import Side, Step, fits, layer_constants, output_channels
from bnfold.core.reason import Miss, Reason
from bnfold.core.rounding import LARGEST
from bnfold.core.verdict import Fold, LayerEdit


def absorb_above(view: GraphView, bn: Node, affine: Affine) -> Fold:
    """Fold a batch norm into what feeds it.

    Legal when
      1. every path upward ends in a layer, and each node on the way lets a per-channel affine cross;
      2. nothing else reads what lies between, and it is no output of the model;
      3. the layer may be rewritten, its weight and bias are constants;
      4. its output channels are the channels of the affine;
      5. the folded values fit the stored dtype.
    """
    edits, crossed = [], []
    pending = [(bn.data, affine)]
    while pending:
        value, carried = pending.pop()
        node = view.producer(value)
        if node is None:
            raise Miss(Reason.NO_LINEAR_LAYER, None, "an input of the model reaches the batch norm without a layer")
        sources = [] if node.kind in LAYERS else carry.upward(node, carried)
        _require_sole_reader(view, value, node)
        if node.kind in LAYERS:
            edits.append(_swallow(view, node, value, carried))
        else:
            crossed.append(node)
            pending += sources
    return Fold(bn, affine, "absorb-above", tuple(edits), tuple(crossed))


def _require_sole_reader(view: GraphView, value: str, node: Node) -> None:
    """Changing ``value`` must change nothing but the path to the batch norm."""
    if view.is_output(value):
        raise Miss(Reason.MODEL_OUTPUT, node, f"the output of {node.op} {node.label!r} is an output of the model")
    readers = view.readers(value)
    if len(readers) > 1:
        names = ", ".join(f"{use.node.op} {use.node.label!r}" for use in readers)
        raise Miss(Reason.FAN_OUT, node, f"the output of {node.op} {node.label!r} has {len(readers)} readers: {names}")


def _swallow(view: GraphView, layer: Node, value: str, affine: Affine) -> LayerEdit:
    """The edit by which ``layer`` takes ``affine`` on its outputs."""
    if layer.lock:
        raise Miss(layer.lock.reason, layer, layer.lock.detail)
    traits = _require_constant(view, layer)
    _require_same_channels(view, layer, traits, value, affine)
    steps = (Step(Side.OUTPUTS, affine),)
    if not fits(view, layer, (*view.steps.get(layer.index, ()), *steps)):
        raise Miss(Reason.DTYPE_OVERFLOW, layer, f"folded values of {layer.label!r} are outside the range of its dtype")
    return LayerEdit(layer, steps)


def _require_constant(view: GraphView, layer: Node) -> LayerTraits:
    """Weight and, where there is one, bias are stored tensors that may be rewritten."""
    for name, value in zip(("weight", "bias"), layer.inputs[1:], strict=True):
        lock = view.lock(value)
        if lock:
            raise Miss(lock.reason, layer, f"the {name} of {layer.label!r}: {lock.detail}")
        constant = view.constant(value)
        if value is not None and constant is None:
            raise Miss(Reason.WEIGHT_NOT_CONSTANT, layer, f"the {name} of {layer.label!r} is computed")
        if constant and constant.dtype not in LARGEST:
            raise Miss(
                Reason.WEIGHT_NOT_CONSTANT, layer, f"the {name} of {layer.label!r} is stored as {constant.dtype}"
            )
    if not isinstance(layer.traits, LayerTraits):
        raise TypeError(f"{layer.label!r} is no layer")
    return layer.traits


def _require_same_channels(view: GraphView, layer: Node, traits: LayerTraits, value: str, affine: Affine) -> None:
    """The affine acts on the layer's output channels: the same axis, and as many."""
    axis = traits.channel_axis
    if axis < 0:
        shape = view.shape(value)
        if shape is None:
            raise Miss(Reason.CHANNEL_MISMATCH, layer, f"the rank of the output of {layer.label!r} is unknown")
        axis += len(shape)
    if axis != affine.axis:
        detail = (
            f"the channels of {layer.op} {layer.label!r} are on axis {axis}, the batch norm acts on axis {affine.axis}"
        )
        raise Miss(Reason.CHANNEL_MISMATCH, layer, detail)
    weight, bias, _ = layer_constants(view, layer)
    channels = output_channels(traits, weight.shape)
    if channels != affine.channels:
        detail = f"{layer.label!r} has {channels} output channels, the batch norm {affine.channels}"
        raise Miss(Reason.CHANNEL_MISMATCH, layer, detail)
    if bias is not None and bias.shape[-1:] not in {(), (1,), (channels,)}:
        detail = f"the bias of {layer.label!r} has shape {list(bias.shape)} for {channels} output channels"
        raise Miss(Reason.CHANNEL_MISMATCH, layer, detail)
