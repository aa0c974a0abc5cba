"""ONNX operators in the words of the graph view: one function a row, and the table of them.

The operator pages (onnx.ai/onnx/operators) are cited by name; where a meaning moved with the opset, the row says so.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from onnx import NodeProto, helper

from bnfold.core.graph import BatchNormTraits, Constant, LayerTraits, Lock, OpKind, Traits, Value
from bnfold.core.reason import Reason

IS_TEST_UNTIL = 6
SPATIAL_UNTIL = 8
TRAINING_MODE_FROM = 14
DROPOUT_TRAINING_SLOT = 2
MATRIX = 2
"""The rank of a matrix."""


@dataclass(frozen=True, eq=False)
class Operator:
    """An operator as a row sees it: its attributes, the opset of its domain, and the constants among its inputs."""

    proto: NodeProto
    opset: int
    inputs: tuple[str | None, ...]
    value_of: Callable[[str], Value | None]

    @property
    def attributes(self) -> dict[str, Any]:
        """Attributes by name, as Python values."""
        return {item.name: helper.get_attribute_value(item) for item in self.proto.attribute}

    def constant(self, slot: int) -> Constant | None:
        """The constant on an input slot, if it is one."""
        value = self.value(slot)
        return value.constant if value else None

    def value(self, slot: int) -> Value | None:
        """What is known of the value on an input slot."""
        return self.value_of(self.inputs[slot] or "") if slot < len(self.inputs) else None

    def padded_inputs(self, count: int) -> tuple[str | None, ...]:
        """The inputs, with None for absent ones up to ``count``."""
        return self.inputs + (None,) * (count - len(self.inputs))


@dataclass(frozen=True)
class Meaning:
    """What a row says of an operator."""

    kind: OpKind
    inputs: tuple[str | None, ...]
    traits: Traits = None
    lock: Lock | None = None


def batch_normalization(op: Operator) -> Meaning:
    """BatchNormalization-1, -6, -7, -9, -14, -15; ε is a float32 attribute, 1e-5 where absent."""
    attributes = op.attributes
    training = bool(attributes.get("training_mode", 0)) if op.opset >= TRAINING_MODE_FROM else False
    if op.opset <= IS_TEST_UNTIL:
        training = not attributes.get("is_test", 0)
    traits = BatchNormTraits(epsilon=float(attributes.get("epsilon", _FLOAT32_1E_5)), training=training)
    return Meaning(OpKind.BATCH_NORM, op.padded_inputs(5)[:5], traits, _batch_norm_lock(op))


def _batch_norm_lock(op: Operator) -> Lock | None:
    if op.opset <= SPATIAL_UNTIL and op.attributes.get("spatial", 1) == 0:
        return Lock(Reason.FOREIGN_AXIS, "spatial=0: its parameters belong to single elements")
    further = [name for name in op.proto.output[1:] if name]
    if further:
        return Lock(Reason.STATISTICS_OUTPUTS_USED, f"it also outputs {', '.join(map(repr, further))}")
    return None


def conv(op: Operator) -> Meaning:
    """Conv: W is (M, C/group, …), B is (M,)."""
    return Meaning(OpKind.CONV, op.padded_inputs(3), LayerTraits(groups=op.attributes.get("group", 1)))


def conv_transpose(op: Operator) -> Meaning:
    """ConvTranspose: W is (C, M/group, …), B is (M,)."""
    traits = LayerTraits(groups=op.attributes.get("group", 1), inputs_first=True)
    return Meaning(OpKind.CONV_TRANSPOSE, op.padded_inputs(3), traits)


def gemm(op: Operator) -> Meaning:
    """Gemm: Y = α·A'·B' + β·C; transB says how B is stored, transA does not matter."""
    attributes = op.attributes
    traits = LayerTraits(
        inputs_first=not attributes.get("transB", 0),
        gain=float(attributes.get("alpha", 1.0)),
        bias_gain=float(attributes.get("beta", 1.0)),
    )
    return Meaning(OpKind.LINEAR, op.padded_inputs(3), traits)


def matmul(op: Operator) -> Meaning:
    """MatMul with a constant matrix on the right is a layer, at any rank; any other is not."""
    weight = op.value(1)
    if weight is None or (weight.constant and len(weight.constant.shape) != MATRIX):
        return opaque(op)
    traits = LayerTraits(inputs_first=True, channel_axis=-1)
    return Meaning(OpKind.LINEAR, (*op.inputs, None), traits)


def passes_through(op: Operator) -> Meaning:
    """Identity."""
    return Meaning(OpKind.LAYOUT, op.inputs)


def dropout(op: Operator) -> Meaning:
    """Dropout: the identity, unless told to train (is_test=0 up to opset 6, a training_mode input from 12 on)."""
    trains = False
    if op.opset <= IS_TEST_UNTIL:
        trains = not op.attributes.get("is_test", 0)
    elif len(op.inputs) > DROPOUT_TRAINING_SLOT and op.inputs[DROPOUT_TRAINING_SLOT] is not None:
        training_mode = op.constant(DROPOUT_TRAINING_SLOT)
        trains = training_mode is None or bool(training_mode.load())
    return opaque(op) if trains else Meaning(OpKind.LAYOUT, op.inputs[:1])


def cast_like(op: Operator) -> Meaning:
    """CastLike of a constant reads only the type of its other input."""
    return shape(op) if op.constant(0) else opaque(op)


def shape(op: Operator) -> Meaning:
    """Shape and Size read no element."""
    return Meaning(OpKind.SHAPE, op.inputs)


def opaque(op: Operator) -> Meaning:
    """Any other operator is left alone."""
    return Meaning(OpKind.OPAQUE, op.inputs)


ROWS: dict[str, Callable[[Operator], Meaning]] = {
    "BatchNormalization": batch_normalization,
    "CastLike": cast_like,
    "Conv": conv,
    "ConvTranspose": conv_transpose,
    "Dropout": dropout,
    "Gemm": gemm,
    "Identity": passes_through,
    "MatMul": matmul,
    "Shape": shape,
    "Size": shape,
}

_FLOAT32_1E_5 = 9.999999747378752e-06
"""1e-5 as the float32 attribute that it is."""
