"""Where an affine ends: what a layer, or another batch norm, must be like to swallow it."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from bnfold.core.affine import Affine
from bnfold.core.graph import LAYERS, GraphView, Node, OpKind
from bnfold.core.kernel import fits, input_channels, layer_constants, output_channels
from bnfold.core.pointwise import after_steps, largest_stored
from bnfold.core.reason import Miss, Reason
from bnfold.core.rounding import LARGEST
from bnfold.core.steps import Join, LayerStep, Side, Step
from bnfold.core.traits import BatchNormTraits, LayerTraits, ScaleShiftTraits
from bnfold.core.verdict import Edit
from bnfold.rules.batch_norm import affine_of


def swallow_outputs(view: GraphView, node: Node, value: str, affine: Affine) -> Edit:
    """The edit by which ``node`` does ``affine`` on its output ``value`` itself. Raises Miss.

    Legal when
      1. the front end allows it to be rewritten, and its weight and bias are constants;
      2. its output channels are the channels of the affine: the same axis, and as many;
      3. the folded values fit the stored dtype.
    A batch norm swallows the affine in its γ and β, a run of arithmetic in its constants.
    """
    if isinstance(node.traits, ScaleShiftTraits):
        return _into_run(view, node, Step(Side.OUTPUTS, affine))
    if node.kind is OpKind.BATCH_NORM:
        return _into_batch_norm(view, node, affine)
    traits = writable_layer(view, node)
    weight, bias, _ = layer_constants(view, node)
    channels = output_channels(traits, weight.shape)
    affine = on_axis(view, node, value, affine, axis=traits.channel_axis, channels=channels)
    require_channels(node, channels, "output", affine)
    if bias is not None and bias.shape[-1:] not in {(), (1,), (channels,)}:
        detail = f"the bias of {node.label!r} has shape {list(bias.shape)} for {channels} output channels"
        raise Miss(Reason.CHANNEL_MISMATCH, node, detail)
    return edit_of(view, node, Step(Side.OUTPUTS, affine))


def swallow_inputs(view: GraphView, node: Node, value: str, affine: Affine) -> Edit:
    """The edit by which ``node`` does ``affine`` on its input ``value`` itself. Raises Miss.

    Legal as for ``swallow_outputs``, on the input channels, and when
      4. a shift is the same at every position: the layer pads with no zeros.
    """
    traits = writable_layer(view, node)
    weight, _, _ = layer_constants(view, node)
    channels = input_channels(traits, weight.shape)
    affine = on_axis(view, node, value, affine, axis=traits.input_axis, channels=channels)
    require_channels(node, channels, "input", affine)
    if affine.shift.any() and not traits.takes_shift:
        detail = f"{node.op} {node.label!r} pads its input with zeros, or leaves gaps: the shift would be missing there"
        raise Miss(Reason.PADDED_INPUT, node, detail)
    return edit_of(view, node, Step(Side.INPUTS, affine))


def taken_along(node: Node, own: Affine, affine: Affine, side: Side) -> Edit:
    """The edit by which an affine node that does ``own``, and is going to fold, takes ``affine`` along. Raises Miss."""
    if not (own.acts_like(affine) or own.is_uniform or affine.is_uniform):
        raise Miss(Reason.CHANNEL_MISMATCH, node, f"{node.label!r} scales or shifts other channels")
    return Edit(node, (Step(side, affine),))


def edit_of(view: GraphView, layer: Node, *steps: LayerStep) -> Edit:
    """The edit by which ``layer`` takes on ``steps``, if its dtype can hold what becomes of it. Raises Miss."""
    _, bias, traits = layer_constants(view, layer)
    if (
        bias is None
        and not traits.gains_bias
        and any(step.may_shift if isinstance(step, Join) else step.affine.shift.any() for step in steps)
    ):
        raise Miss(Reason.HOOKED, layer, f"the code that calls {layer.op} {layer.label!r} gives it no bias")
    if not fits(view, layer, (*view.steps.get(layer.index, ()), *steps)):
        raise Miss(Reason.DTYPE_OVERFLOW, layer, f"folded values of {layer.label!r} are outside the range of its dtype")
    return Edit(layer, steps)


def one_edit_each(view: GraphView, edits: Iterable[Edit]) -> tuple[Edit, ...]:
    """The edits of one fold, one for each node, if its dtype can hold what all of them make of it. Raises Miss."""
    by_node: dict[int, list[Edit]] = {}
    for edit in edits:
        by_node.setdefault(edit.node.index, []).append(edit)
    return tuple(group[0] if len(group) == 1 else _all_of(view, group) for group in by_node.values())


def _all_of(view: GraphView, edits: list[Edit]) -> Edit:
    """The edits of one node, which were looked at one by one, as one."""
    node, steps = edits[0].node, tuple(step for edit in edits for step in edit.steps)
    if node.kind in LAYERS:
        return edit_of(view, node, *steps)
    _require_range(view, node, steps)
    return Edit(node, steps)


def _into_batch_norm(view: GraphView, bn: Node, affine: Affine) -> Edit:
    """γ·s and β·s + t."""
    own = affine_of(view, bn)
    for name, value in (("scale", bn.inputs[1]), ("shift", bn.inputs[2])):
        _require_constant(view, bn, name, value)
    if not own.acts_like(affine):
        raise Miss(Reason.CHANNEL_MISMATCH, bn, f"{bn.label!r} normalises other channels")
    steps = (Step(Side.OUTPUTS, affine),)
    _require_range(view, bn, steps)
    return Edit(bn, steps)


def require_silenceable(view: GraphView, bn: Node) -> None:
    """γ and β are stored, so that they can become 0. Raises Miss."""
    if not isinstance(bn.traits, BatchNormTraits) or None in bn.inputs[1:3]:
        raise Miss(Reason.WEIGHT_NOT_CONSTANT, bn, f"{bn.label!r} stores no scale and shift that could become 0")
    for name, value in (("scale", bn.inputs[1]), ("shift", bn.inputs[2])):
        _require_constant(view, bn, name, value)


def swallow_run_inputs(view: GraphView, run: Node, affine: Affine) -> Edit:
    """The edit by which a run of arithmetic does ``affine`` on its input itself. Raises Miss."""
    return _into_run(view, run, Step(Side.INPUTS, affine))


def _into_run(view: GraphView, run: Node, step: Step) -> Edit:
    """A run becomes one scale and one shift."""
    own = affine_of(view, run)
    if isinstance(run.traits, ScaleShiftTraits) and run.traits.is_fixed:
        raise Miss(Reason.NO_LINEAR_LAYER, run, f"the constants of {run.label!r} cannot be changed")
    if not (own.acts_like(step.affine) or own.is_uniform or step.affine.is_uniform):
        raise Miss(Reason.CHANNEL_MISMATCH, run, f"{run.label!r} scales or shifts other channels")
    _require_range(view, run, (step,))
    return Edit(run, (step,))


def _require_range(view: GraphView, node: Node, steps: tuple[LayerStep, ...]) -> None:
    """The dtypes of an affine node's constants hold what becomes of them. Raises Miss."""
    affine = after_steps(view, node, (*view.steps.get(node.index, ()), *steps))
    found = max(np.abs(affine.scale).max(initial=0), np.abs(affine.shift).max(initial=0))
    if not found <= largest_stored(view, node):
        raise Miss(Reason.DTYPE_OVERFLOW, node, f"folded values of {node.label!r} are outside the range of its dtype")


def writable_layer(view: GraphView, layer: Node) -> LayerTraits:
    """The traits of a layer that may be rewritten."""
    if layer.lock:
        raise Miss(layer.lock.reason, layer, layer.lock.detail)
    _require_constant(view, layer, "weight", layer.inputs[1])
    if layer.inputs[2] is not None:
        _require_constant(view, layer, "bias", layer.inputs[2])
    if not isinstance(layer.traits, LayerTraits):
        raise TypeError(f"{layer.label!r} is no layer")
    return layer.traits


def _require_constant(view: GraphView, node: Node, name: str, value: str | None) -> None:
    """The tensor is stored in a float dtype, and may be rewritten."""
    lock = view.lock(value)
    if lock:
        raise Miss(lock.reason, node, f"the {name} of {node.label!r}: {lock.detail}")
    constant = view.constant(value)
    if constant is None:
        raise Miss(Reason.WEIGHT_NOT_CONSTANT, node, f"the {name} of {node.label!r} is computed")
    if constant.dtype not in LARGEST:
        raise Miss(Reason.WEIGHT_NOT_CONSTANT, node, f"the {name} of {node.label!r} is stored as {constant.dtype}")


def on_axis(view: GraphView, layer: Node, value: str, affine: Affine, *, axis: int, channels: int) -> Affine:
    """``affine``, which must act on the axis of ``value`` that holds the layer's channels, or on all elements alike."""
    if axis < 0:
        shape = view.shape(value)
        if shape is None:
            raise Miss(Reason.CHANNEL_MISMATCH, layer, f"the rank of {value!r} at {layer.label!r} is unknown")
        axis += len(shape)
    if axis != affine.axis and affine.is_uniform:
        return affine.spread(axis, channels)
    if axis != affine.axis:
        detail = (
            f"the channels of {layer.op} {layer.label!r} are on axis {axis}, the batch norm's on axis {affine.axis}"
        )
        raise Miss(Reason.CHANNEL_MISMATCH, layer, detail)
    return affine


def require_channels(layer: Node, channels: int, side: str, affine: Affine) -> None:
    """The affine has as many channels as the layer. Raises Miss."""
    if channels != affine.channels:
        detail = f"{layer.label!r} has {channels} {side} channels, the batch norm {affine.channels}"
        raise Miss(Reason.CHANNEL_MISMATCH, layer, detail)
