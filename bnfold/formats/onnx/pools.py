"""ONNX operators that pool, resize or pad, in the words of the graph view: one function a row."""

from __future__ import annotations

import math

from bnfold.core.graph import Constant, OpKind
from bnfold.core.traits import PadTraits, PoolTraits
from bnfold.formats.onnx.meaning import Meaning, Operator, Row, opaque
from bnfold.formats.onnx.movers import identity
from bnfold.formats.onnx.operators import window_of

REDUCED_AXES_ARE_INPUT_FROM = {"ReduceMean": 18, "ReduceMax": 18, "ReduceSum": 13}
PADS_ARE_INPUT_FROM = 11


def average_pool(op: Operator) -> Meaning:
    """AveragePool: where padding counts as zeros the weights do not sum to 1 at the border."""
    attributes = op.attributes
    pads = attributes.get("auto_pad", "NOTSET").startswith("SAME") or any(attributes.get("pads", ()))
    reaches_over = bool(pads or attributes.get("ceil_mode", 0))
    keeps_shift = not (attributes.get("count_include_pad", 0) and reaches_over)
    window = window_of(op, tuple(attributes.get("kernel_shape", ()))) if _counts_all(op, pads=pads) else None
    return Meaning(OpKind.POOL, op.inputs[:1], PoolTraits(is_max=False, keeps_shift=keeps_shift, window=window))


def _counts_all(op: Operator, *, pads: bool) -> bool:
    """Whether every mean is over as many numbers: no padding that is left out, and no window that reaches beyond it."""
    attributes = op.attributes
    same = attributes.get("auto_pad", "NOTSET").startswith("SAME")
    return not attributes.get("ceil_mode", 0) and not same and bool(attributes.get("count_include_pad", 0) or not pads)


def global_average_pool(op: Operator) -> Meaning:
    """GlobalAveragePool."""
    return Meaning(OpKind.POOL, op.inputs[:1], PoolTraits(is_max=False))


def max_pool(op: Operator) -> Meaning:
    """MaxPool (padding is −∞) and GlobalMaxPool; with Indices it is not followed."""
    if len(op.outputs) > 1:
        return opaque(op, "it also outputs where the largest values are")
    return Meaning(OpKind.POOL, op.inputs[:1], PoolTraits(is_max=True))


def reduction(op: Operator) -> Meaning:
    """ReduceMean, ReduceSum and ReduceMax over given axes; without, over all or none (noop_with_empty_axes)."""
    by_input = op.opset >= REDUCED_AXES_ARE_INPUT_FROM[op.proto.op_type]
    axes = op.integers(1) if by_input else op.attributes.get("axes")
    if by_input and op.attributes.get("noop_with_empty_axes", 0) and (axes == () or not op.has_input(1)):
        return identity(op)
    if not axes:
        return opaque(op, "over which axes it goes is not told by constants")
    return Meaning(
        OpKind.POOL,
        op.inputs[:1],
        PoolTraits(
            is_max=op.proto.op_type == "ReduceMax",
            is_sum=op.proto.op_type == "ReduceSum",
            axes=tuple(axes),
            keeps_axes=bool(op.attributes.get("keepdims", 1)),
        ),
    )


def tile(op: Operator) -> Meaning:
    """Tile, by constant numbers of repetitions."""
    repeats = op.integers(1)
    if repeats is None:
        return opaque(op, "how often it repeats is computed")
    return _repeated(op, tuple(axis for axis, times in enumerate(repeats) if times != 1))


def expand(op: Operator) -> Meaning:
    """Expand, where the value has as many axes before; an axis of unknown size may be one that is repeated."""
    before, after = op.shape(), op.shape_of(op.outputs[0])
    if before is None or after is None or len(before) != len(after):
        return opaque(op, "it adds axes, or how many axes there are is unknown")
    sizes = zip(before, after, strict=True)
    return _repeated(op, tuple(axis for axis, (old, new) in enumerate(sizes) if old is None or old != new))


def _repeated(op: Operator, axes: tuple[int, ...]) -> Meaning:
    return Meaning(OpKind.POOL, op.inputs[:1], PoolTraits(is_max=False, axes=axes))


def resize(op: Operator) -> Meaning:
    """Resize and Upsample, nearest or linear, of the spatial axes, without reading beyond the border."""
    attributes = op.attributes
    mode = attributes.get("mode", "nearest")
    extrapolates = attributes.get("coordinate_transformation_mode") == "tf_crop_and_resize"
    if mode not in {"nearest", "linear"} or extrapolates:
        return opaque(op, "it reads beyond the border" if extrapolates else f"it is {mode}")
    if not _keeps_channels(op):
        return opaque(op, "whether it resizes the channels is unknown")
    return Meaning(OpKind.POOL, op.inputs[:1], PoolTraits(is_max=False))


def _keeps_channels(op: Operator) -> bool:
    """Whether axis 1 is not resized: by the shapes, or by scales that are constant (for height and width, once)."""
    if "height_scale" in op.attributes:
        return True
    before, after = op.shape(), op.shape_of(op.outputs[0])
    if before is not None and after is not None and isinstance(before[1], int) and isinstance(after[1], int):
        return before[1] == after[1]
    scales = op.constant(len(op.inputs) - 1)
    if scales is None or scales.dtype != "float32":
        return False
    axes = op.attributes.get("axes") or range(math.prod(scales.shape))
    if before is None and any(axis < 0 for axis in axes):
        return False
    resized = {
        axis % len(before) if before else axis for axis, scale in zip(axes, scales.load(), strict=False) if scale != 1
    }
    return 1 not in resized


def pad(op: Operator) -> Meaning:
    """Pad with zeros, or with values of the input (reflect, edge, wrap)."""
    attributes = op.attributes
    mode = attributes.get("mode", "constant")
    by_input = op.opset >= PADS_ARE_INPUT_FROM
    pads = op.integers(1) if by_input else attributes.get("pads", attributes.get("paddings"))
    filling = op.constant(2) if by_input and op.has_input(2) else None
    is_zero = attributes.get("value", 0.0) == 0 if not by_input else not op.has_input(2) or _is_zero(filling)
    if pads is None or (mode == "constant" and not is_zero):
        return opaque(op, "how much it pads is computed" if pads is None else "it pads with another number than 0")
    axes = op.integers(3) if op.has_input(3) else tuple(range(len(pads) // 2))
    if axes is None:
        return opaque(op)
    padded = tuple(axis for position, axis in enumerate(axes) if pads[position] or pads[position + len(axes)])
    return Meaning(OpKind.PAD, op.inputs[:1], PadTraits(padded, with_zeros=mode == "constant"))


def _is_zero(filling: Constant | None) -> bool:
    return filling is not None and not filling.load().any()


ROWS: dict[str, Row] = {
    "AveragePool": average_pool,
    "GlobalAveragePool": global_average_pool,
    "GlobalMaxPool": max_pool,
    "MaxPool": max_pool,
    "Pad": pad,
    "Expand": expand,
    "ReduceMax": reduction,
    "ReduceMean": reduction,
    "ReduceSum": reduction,
    "Tile": tile,
    "Resize": resize,
    "Upsample": resize,
}
