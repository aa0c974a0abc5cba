"""ONNX operators that join values, or take one apart, in the words of the graph view: one function a row."""

from __future__ import annotations

from collections.abc import Sequence

from bnfold.core.graph import OpKind
from bnfold.core.traits import ConcatTraits, Cut, SliceTraits, WeightedSumTraits
from bnfold.formats.onnx.meaning import Meaning, Operator, Row, opaque

CONCAT_AXIS_REQUIRED_FROM = 4
SLICE_ARGUMENTS_ARE_INPUTS_FROM = 10


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
        return opaque(op, "where it cuts is computed")
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
    if op.opset < SLICE_ARGUMENTS_ARE_INPUTS_FROM:
        attributes = op.attributes
        return [tuple(attributes[name]) if name in attributes else None for name in ("starts", "ends", "axes", "steps")]
    arguments = [op.integers(slot) for slot in range(1, 5)]
    is_known = all(arguments[slot - 1] is not None for slot in range(1, 5) if op.has_input(slot))
    return arguments if is_known else [None] * 4


def add(op: Operator) -> Meaning:
    """Add and Sum of computed values. With the attributes of opset 6 and older the second one may be aligned oddly."""
    obstacle = _obstacle_to_sum(op)
    return opaque(op, obstacle) if obstacle else Meaning(OpKind.ADD, op.inputs)


def difference(op: Operator) -> Meaning:
    """Sub of computed values; Neg."""
    obstacle = _obstacle_to_sum(op)
    weights = (1.0, -1.0) if op.proto.op_type == "Sub" else (-1.0,)
    return opaque(op, obstacle) if obstacle else Meaning(OpKind.WEIGHTED_SUM, op.inputs, WeightedSumTraits(weights))


def mean(op: Operator) -> Meaning:
    """Mean of computed values, element by element."""
    if any(op.value(slot) is not None for slot in range(len(op.inputs))):
        return opaque(op, "one of the values that it averages is constant")
    count = len(op.inputs)
    return Meaning(OpKind.WEIGHTED_SUM, op.inputs, WeightedSumTraits((1 / count,) * count))


def _obstacle_to_sum(op: Operator) -> str:
    """Why the operands do not simply add up; empty where they do."""
    if any(op.value(slot) is not None for slot in range(len(op.inputs))):
        return "its constant is not the same for every element of a channel"
    return "its operands broadcast as before opset 7" if op.proto.attribute else ""


def gather(op: Operator) -> Meaning:
    """Gather by constant positions: a slice in any order, or one position, whose axis is gone."""
    indices = op.constant(1)
    if indices is None or len(indices.shape) > 1 or op.value(0) is not None:
        return opaque(op, "it does not pick constant positions of a value")
    axis = op.attributes.get("axis", 0)
    known = op.shape()
    size = known[axis] if known is not None and -len(known) <= axis < len(known) else None
    chosen = op.integers(1) or ()
    positions = tuple(position % size for position in chosen) if isinstance(size, int) and size else None
    return Meaning(OpKind.SLICE, op.inputs[:1], SliceTraits(((Cut(axis, positions),),), drops_axis=not indices.shape))


ROWS: dict[str, Row] = {
    "Add": add,
    "Concat": concat,
    "Gather": gather,
    "Mean": mean,
    "Neg": difference,
    "Slice": slice_,
    "Split": split,
    "Sub": difference,
    "Sum": add,
}
