"""Additions and multiplications by constants: one step of an affine map each, and runs of them are one map."""

from __future__ import annotations

import math
from collections.abc import Callable

from onnx import NodeProto

from bnfold.core.graph import Shape, Value
from bnfold.core.layout import MOST_ELEMENTS
from bnfold.core.rounding import LARGEST
from bnfold.core.traits import Arithmetic, ScaleShiftStep
from bnfold.formats.onnx.raising import BROADCAST_ATTRIBUTE_UNTIL

_WITH_CONSTANT_SECOND = {
    "Add": Arithmetic.ADD,
    "Sub": Arithmetic.SUBTRACT,
    "Mul": Arithmetic.MULTIPLY,
    "Div": Arithmetic.DIVIDE,
}
_WITH_CONSTANT_FIRST = {"Add": Arithmetic.ADD, "Sub": Arithmetic.SUBTRACT_FROM, "Mul": Arithmetic.MULTIPLY}
"""Division by the value is no affine map."""


def step_of(
    node: NodeProto,
    opset: int,
    inputs: tuple[str | None, ...],
    value_of: Callable[[str], Value | None],
    shape_of: Callable[[str], Shape | None],
) -> ScaleShiftStep | None:
    """What ``node`` does to its one computed input, if that is the same for every element of a channel.

    The constant must be a number, or vary along one axis of the input, and give the result no other shape than the
    input's.
    """
    if node.op_type not in _WITH_CONSTANT_SECOND or len(inputs) != 2 or None in inputs:  # noqa: PLR2004
        return None
    constants = [value.constant if (value := value_of(item or "")) else None for item in inputs]
    table = _WITH_CONSTANT_SECOND if constants[1] else _WITH_CONSTANT_FIRST
    constant = constants[1] or constants[0]
    if constant is None or all(constants) or node.op_type not in table or constant.dtype not in LARGEST:
        return None  # integers among them: their division truncates
    data, slot = (inputs[0], 1) if constants[1] else (inputs[1], 0)
    shape = shape_of(data or "")
    sizes = _aligned(node, opset, slot, constant.shape, len(shape)) if shape else None
    if not shape or sizes is None or len(sizes) > len(shape) or any(map(_is_no_size, shape)):
        return None
    axes = [axis - len(sizes) for axis, size in enumerate(sizes) if size != 1]
    if len(axes) > 1 or (axes and shape[axes[0]] != math.prod(sizes)):
        return None
    return ScaleShiftStep(table[node.op_type], slot, len(shape) + axes[0] if axes else None)


def _is_no_size(size: int | str | None) -> bool:
    """Whether no tensor is as large as a file says."""
    return isinstance(size, int) and size > MOST_ELEMENTS


def _aligned(node: NodeProto, opset: int, slot: int, sizes: tuple[int, ...], rank: int) -> tuple[int, ...] | None:
    """The constant's sizes, as its last axes lie on the last ones of the value; None where it is not clear.

    Up to opset 6 attributes tell the axis on which its first one lies (Caffe's Scale), and that it is broadcast at all.
    """
    attributes = {item.name: item.i for item in node.attribute if item.name != "consumed_inputs"}
    if not attributes:
        return sizes
    if opset > BROADCAST_ATTRIBUTE_UNTIL or slot == 0 or not attributes.get("broadcast"):
        return None
    if "axis" not in attributes or math.prod(sizes) == 1:
        return sizes
    first = attributes["axis"] + (rank if attributes["axis"] < 0 else 0)
    behind = rank - first - len(sizes)
    return (*sizes, *[1] * behind) if first >= 0 and behind >= 0 else None
