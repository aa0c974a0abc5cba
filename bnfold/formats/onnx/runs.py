"""Additions and multiplications by constants: one step of an affine map each, and runs of them are one map."""

from __future__ import annotations

import math
from collections.abc import Callable

from onnx import NodeProto

from bnfold.core.graph import Shape, Value
from bnfold.core.rounding import LARGEST
from bnfold.core.traits import Arithmetic, ScaleShiftStep

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
    inputs: tuple[str | None, ...],
    value_of: Callable[[str], Value | None],
    shape_of: Callable[[str], Shape | None],
) -> ScaleShiftStep | None:
    """What ``node`` does to its one computed input, if that is the same for every element of a channel.

    The constant must be a number, or vary along one axis of the input, and give the result no other shape than the
    input's. Attributes (``broadcast`` and ``axis`` up to opset 6) are not followed.
    """
    if node.op_type not in _WITH_CONSTANT_SECOND or node.attribute or len(inputs) != 2 or None in inputs:  # noqa: PLR2004
        return None
    constants = [value.constant if (value := value_of(item or "")) else None for item in inputs]
    table = _WITH_CONSTANT_SECOND if constants[1] else _WITH_CONSTANT_FIRST
    constant = constants[1] or constants[0]
    if constant is None or all(constants) or node.op_type not in table or constant.dtype not in LARGEST:
        return None  # integers among them: their division truncates
    data, slot = (inputs[0], 1) if constants[1] else (inputs[1], 0)
    shape = shape_of(data or "")
    if not shape or len(constant.shape) > len(shape):
        return None
    axes = [axis - len(constant.shape) for axis, size in enumerate(constant.shape) if size != 1]
    if len(axes) > 1 or (axes and shape[axes[0]] != math.prod(constant.shape)):
        return None
    return ScaleShiftStep(table[node.op_type], slot, len(shape) + axes[0] if axes else None)
