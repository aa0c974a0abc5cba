"""ONNX operators that move, pick, pool or join values, in the words of the graph view: one function a row."""

from __future__ import annotations

from collections.abc import Sequence

from bnfold.core.graph import Constant, OpKind
from bnfold.core.traits import ChannelMap, ConcatTraits, Cut, PadTraits, Permute, PoolTraits, Reshape, SliceTraits
from bnfold.formats.onnx.operators import IS_TEST_UNTIL, Meaning, Operator, Row, opaque, window_of
from bnfold.formats.onnx.raising import type_by_name

DROPOUT_TRAINING_SLOT = 2
CONCAT_AXIS_REQUIRED_FROM = 4
INPUTS_INSTEAD_OF_ATTRIBUTES_FROM = {"Slice": 10, "Pad": 11, "Split": 13, "ReduceMean": 18}
"""From these opsets on, what were attributes are inputs."""


def identity(op: Operator) -> Meaning:
    """Identity."""
    return Meaning(OpKind.LAYOUT, op.inputs[:1])


def dropout(op: Operator) -> Meaning:
    """Dropout: the identity, unless told to train (is_test=0 up to opset 6, a training_mode input from 12 on)."""
    trains = False
    if op.opset <= IS_TEST_UNTIL:
        trains = not op.attributes.get("is_test", 0)
    elif op.has_input(DROPOUT_TRAINING_SLOT):
        training_mode = op.constant(DROPOUT_TRAINING_SLOT)
        trains = training_mode is None or bool(training_mode.load())
    return opaque(op) if trains else identity(op)


def reshape(op: Operator) -> Meaning:
    """Reshape, Flatten, Squeeze, Unsqueeze: row-major; what goes where follows from the two shapes."""
    return Meaning(OpKind.LAYOUT, op.inputs[:1], Reshape())


def transpose(op: Operator) -> Meaning:
    """Transpose; without perm it reverses the axes."""
    permutation = op.attributes.get("perm")
    known = op.shape()
    if permutation is None and known is not None:
        permutation = range(len(known))[::-1]
    return opaque(op) if permutation is None else Meaning(OpKind.LAYOUT, op.inputs[:1], Permute(tuple(permutation)))


def depth_to_space(op: Operator) -> Meaning:
    """DepthToSpace: input channel (b₁, b₂, c), or (c, b₁, b₂) in mode CRD, goes to output channel c."""
    channels = _channels(op)
    if channels is None:
        return opaque(op)
    blocks = op.attributes["blocksize"] ** 2
    outputs = channels // blocks
    column_first = op.attributes.get("mode", "DCR") == "CRD"
    pairs = tuple((i, i // blocks if column_first else i % outputs) for i in range(channels))
    return Meaning(OpKind.LAYOUT, op.inputs[:1], ChannelMap(pairs))


def space_to_depth(op: Operator) -> Meaning:
    """SpaceToDepth: input channel c goes to the output channels (b₁, b₂, c)."""
    channels = _channels(op)
    if channels is None:
        return opaque(op)
    blocks = op.attributes["blocksize"] ** 2
    pairs = tuple((o % channels, o) for o in range(channels * blocks))
    return Meaning(OpKind.LAYOUT, op.inputs[:1], ChannelMap(pairs))


def average_pool(op: Operator) -> Meaning:
    """AveragePool: where padding counts as zeros the weights do not sum to 1 at the border."""
    attributes = op.attributes
    pads = attributes.get("auto_pad", "NOTSET").startswith("SAME") or any(attributes.get("pads", ()))
    reaches_over = bool(pads or attributes.get("ceil_mode", 0))
    keeps_shift = not (attributes.get("count_include_pad", 0) and reaches_over)
    window = window_of(op, tuple(attributes["kernel_shape"])) if _counts_all(op, pads=pads) else None
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
    return opaque(op) if len(op.outputs) > 1 else Meaning(OpKind.POOL, op.inputs[:1], PoolTraits(is_max=True))


def reduce_mean(op: Operator) -> Meaning:
    """ReduceMean over given axes; without axes it means all of them, or none (noop_with_empty_axes)."""
    by_input = op.opset >= INPUTS_INSTEAD_OF_ATTRIBUTES_FROM["ReduceMean"]
    axes = op.integers(1) if by_input else op.attributes.get("axes")
    if not axes:
        return opaque(op)
    keeps_axes = bool(op.attributes.get("keepdims", 1))
    return Meaning(OpKind.POOL, op.inputs[:1], PoolTraits(is_max=False, axes=tuple(axes), keeps_axes=keeps_axes))


def resize(op: Operator) -> Meaning:
    """Resize and Upsample, nearest or linear, of the spatial axes, without reading beyond the border."""
    attributes = op.attributes
    mode = attributes.get("mode", "nearest")
    extrapolates = attributes.get("coordinate_transformation_mode") == "tf_crop_and_resize"
    if mode not in {"nearest", "linear"} or extrapolates or not _keeps_channels(op):
        return opaque(op)
    return Meaning(OpKind.POOL, op.inputs[:1], PoolTraits(is_max=False))


def _keeps_channels(op: Operator) -> bool:
    """Whether axis 1 is not resized: by the shapes, or by scales that are constant (for height and width, once)."""
    if "height_scale" in op.attributes:
        return True
    before, after = op.shape(), op.shape_of(op.outputs[0])
    if before is not None and after is not None and isinstance(before[1], int) and before[1] == after[1]:
        return True
    scales = op.constant(len(op.inputs) - 1)
    return scales is not None and scales.dtype == "float32" and scales.load()[1:2].tolist() == [1.0]


def pad(op: Operator) -> Meaning:
    """Pad with zeros, or with values of the input (reflect, edge, wrap)."""
    attributes = op.attributes
    mode = attributes.get("mode", "constant")
    by_input = op.opset >= INPUTS_INSTEAD_OF_ATTRIBUTES_FROM["Pad"]
    pads = op.integers(1) if by_input else attributes.get("pads", attributes.get("paddings"))
    filling = op.constant(2) if by_input and op.has_input(2) else None
    is_zero = attributes.get("value", 0.0) == 0 if not by_input else not op.has_input(2) or _is_zero(filling)
    if pads is None or (mode == "constant" and not is_zero):
        return opaque(op)
    axes = op.integers(3) if op.has_input(3) else tuple(range(len(pads) // 2))
    if axes is None:
        return opaque(op)
    padded = tuple(axis for position, axis in enumerate(axes) if pads[position] or pads[position + len(axes)])
    return Meaning(OpKind.PAD, op.inputs[:1], PadTraits(padded, with_zeros=mode == "constant"))


def _is_zero(filling: Constant | None) -> bool:
    return filling is not None and not filling.load().any()


def concat(op: Operator) -> Meaning:
    """Concat; the axis was 1 by default before opset 4."""
    default = 1 if op.opset < CONCAT_AXIS_REQUIRED_FROM else 0
    return Meaning(OpKind.CONCAT, op.inputs, ConcatTraits(op.attributes.get("axis", default)))


def split(op: Operator) -> Meaning:
    """Split: the sizes of the parts are those of the outputs."""
    axis = op.attributes.get("axis", 0)
    shapes = [op.shape_of(output) for output in op.outputs]
    sizes = [None if known is None else known[axis] for known in shapes]
    cuts, start = [], 0
    are_known = all(isinstance(size, int) for size in sizes) and len(op.outputs) == len(op.proto.output)
    for size in sizes:
        stop = start + size if isinstance(size, int) else start
        cuts.append((Cut(axis, range(start, stop) if are_known else None),))
        start = stop
    return Meaning(OpKind.SLICE, op.inputs[:1], SliceTraits(tuple(cuts)))


def slice_(op: Operator) -> Meaning:
    """Slice: from start to end by step, along each of the axes."""
    starts, ends, axes, steps = _slice_arguments(op)
    if starts is None or ends is None:
        return opaque(op)
    axes = axes if axes is not None else tuple(range(len(starts)))
    steps = steps if steps is not None else (1,) * len(starts)
    known = op.shape()
    cuts = []
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        size = known[axis] if known is not None and axis < len(known) else None
        stop = None if step < 0 and end < -(size if isinstance(size, int) else 0) else end
        positions = range(size)[start:stop:step] if isinstance(size, int) else None
        if positions is None or len(positions) != size or step != 1:
            cuts.append(Cut(axis, positions))
    return Meaning(OpKind.SLICE, op.inputs[:1], SliceTraits((tuple(cuts),)))


def _slice_arguments(op: Operator) -> Sequence[tuple[int, ...] | None]:
    """Starts, ends, axes and steps, as attributes or as inputs; starts are None where something is not constant."""
    if op.opset < INPUTS_INSTEAD_OF_ATTRIBUTES_FROM["Slice"]:
        attributes = op.attributes
        return [tuple(attributes[name]) if name in attributes else None for name in ("starts", "ends", "axes", "steps")]
    arguments = [op.integers(slot) for slot in range(1, 5)]
    is_known = all(arguments[slot - 1] is not None for slot in range(1, 5) if op.has_input(slot))
    return arguments if is_known else [None] * 4


def add(op: Operator) -> Meaning:
    """Add and Sum of computed values. With the attributes of opset 6 and older the second one may be aligned oddly."""
    if op.proto.attribute or any(op.value(slot) is not None for slot in range(len(op.inputs))):
        return opaque(op)
    return Meaning(OpKind.ADD, op.inputs)


def cast(op: Operator) -> Meaning:
    """Cast to the type that the value has already changes nothing; until opset 5 a text names the type."""
    known = op.type_of(op.inputs[0] or "")
    to = op.attributes.get("to")
    data_type = type_by_name(to.encode()) if isinstance(to, str) else to
    return identity(op) if known is not None and known.data_type == data_type else opaque(op)


def cast_like(op: Operator) -> Meaning:
    """CastLike of a constant reads only the type of its other input."""
    return shape(op) if op.constant(0) else opaque(op)


def shape(op: Operator) -> Meaning:
    """Shape and Size read no element."""
    return Meaning(OpKind.SHAPE, op.inputs)


def _channels(op: Operator) -> int | None:
    """The size of axis 1, where it is known."""
    known = op.shape()
    return known[1] if known is not None and isinstance(known[1], int) else None


ROWS: dict[str, Row] = {
    "Add": add,
    "AveragePool": average_pool,
    "Cast": cast,
    "CastLike": cast_like,
    "Concat": concat,
    "DepthToSpace": depth_to_space,
    "Dropout": dropout,
    "Flatten": reshape,
    "GlobalAveragePool": global_average_pool,
    "GlobalMaxPool": max_pool,
    "Identity": identity,
    "MaxPool": max_pool,
    "Pad": pad,
    "ReduceMean": reduce_mean,
    "Reshape": reshape,
    "Resize": resize,
    "Shape": shape,
    "Size": shape,
    "Slice": slice_,
    "SpaceToDepth": space_to_depth,
    "Split": split,
    "Squeeze": reshape,
    "Sum": add,
    "Transpose": transpose,
    "Unsqueeze": reshape,
    "Upsample": resize,
}
