"""ONNX operators in the words of the graph view: one function a row.

Layers and batch norms are here; what only moves, pools or joins values is in ``movers``, ``pools`` and ``parts``. The
operator pages (onnx.ai/onnx/operators) are cited by name; where a meaning moved with the opset, the row says so.
"""

from __future__ import annotations

import math

from bnfold.core.graph import Constant, Lock, OpKind, Shape
from bnfold.core.reason import Reason
from bnfold.core.traits import BatchNormTraits, LayerTraits, Window
from bnfold.formats.onnx.meaning import Meaning, Operator, Row, opaque

IS_TEST_UNTIL = 6
SPATIAL_UNTIL = 8
TRAINING_MODE_FROM = 14
MATRIX = 2
"""The rank of a matrix."""


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
    weight = op.constant(1)
    if not _cuts_into_groups(op, weight):
        return opaque(op, "its weight does not fit its groups")
    kernel = weight.shape[2:] if weight else op.attributes.get("kernel_shape")
    traits = LayerTraits(
        groups=op.attributes.get("group", 1),
        takes_shift=not _pads(op),
        window=None if kernel is None else window_of(op, tuple(kernel)),
    )
    return Meaning(OpKind.CONV, op.padded_inputs(3), traits)


def conv_transpose(op: Operator) -> Meaning:
    """ConvTranspose: W is (C, M/group, …), B is (M,). Only a kernel of 1 at stride 1 reaches every output alike."""
    attributes = op.attributes
    if not _cuts_into_groups(op, op.constant(1)):
        return opaque(op, "its weight does not fit its groups")
    is_pointwise = (
        _kernel_is_one(op)
        and all(stride == 1 for stride in attributes.get("strides", ()))
        and not any(attributes.get("output_padding", ()))
        and not _pads(op)
        and "output_shape" not in attributes
    )
    traits = LayerTraits(groups=attributes.get("group", 1), inputs_first=True, takes_shift=is_pointwise)
    return Meaning(OpKind.CONV_TRANSPOSE, op.padded_inputs(3), traits)


def _cuts_into_groups(op: Operator, weight: Constant | None) -> bool:
    """Whether a convolution's weight, as far as known, has axes for outputs and inputs, and its groups are as large."""
    groups = op.attributes.get("group", 1)
    sizes = weight.shape if weight else (0, 0)
    return groups > 0 and len(sizes) >= MATRIX and sizes[0] % groups == 0


def _pads(op: Operator) -> bool:
    """Whether zeros are put around the input: pads, or auto_pad SAME with a kernel that needs them."""
    attributes = op.attributes
    auto_pad = attributes.get("auto_pad", "NOTSET")
    if auto_pad.startswith("SAME"):
        return not (_kernel_is_one(op) and all(stride == 1 for stride in attributes.get("strides", ())))
    return auto_pad != "VALID" and any(attributes.get("pads", ()))


def _kernel_is_one(op: Operator) -> bool:
    weight = op.constant(1)
    return weight is not None and math.prod(weight.shape[2:]) == 1


def window_of(op: Operator, kernel: tuple[int, ...]) -> Window | None:
    """How a Conv or AveragePool moves; None where its padding depends on sizes that are unknown, or is negative.

    auto_pad SAME pads to ceil(size / stride) positions, one more zero after (SAME_UPPER) or before (SAME_LOWER).
    onnxruntime runs it without dilation only.
    """
    attributes, axes = op.attributes, len(kernel)
    strides = tuple(attributes.get("strides", (1,) * axes))
    dilations = tuple(attributes.get("dilations", (1,) * axes))
    auto_pad = attributes.get("auto_pad", "NOTSET")
    pads: tuple[int, ...] | None = tuple(attributes.get("pads", ())) or (0,) * 2 * axes
    if auto_pad == "VALID":
        pads = (0,) * 2 * axes
    elif auto_pad.startswith("SAME"):
        pads = _same_pads(op, kernel, strides, upper=auto_pad == "SAME_UPPER") if set(dilations) <= {1} else None
    if pads is None or len(pads) != 2 * axes or any(pad < 0 for pad in pads):
        return None
    return Window(kernel, strides, dilations, pads[:axes], pads[axes:])


def _same_pads(
    op: Operator, kernel: tuple[int, ...], strides: tuple[int, ...], *, upper: bool
) -> tuple[int, ...] | None:
    """The zeros before, then those after; at stride 1 they are the same for any size."""
    sizes: Shape | None = (0,) * len(kernel)
    if set(strides) != {1}:
        known = op.shape()
        sizes = known[2:] if known is not None else None
    if sizes is None or len(sizes) != len(kernel):
        return None
    before = []
    after = []
    for size, taps, stride in zip(sizes, kernel, strides, strict=True):
        if not isinstance(size, int):
            return None
        total = max(0, taps - stride if size % stride == 0 else taps - size % stride)
        before.append(total // 2 if upper else total - total // 2)
        after.append(total - before[-1])
    return (*before, *after)


def gemm(op: Operator) -> Meaning:
    """Gemm: Y = α·A'·B' + β·C; transB says how B is stored, transA does not matter."""
    attributes, weight = op.attributes, op.constant(1)
    if weight is not None and len(weight.shape) != MATRIX:
        return opaque(op, "its weight is no matrix")
    traits = LayerTraits(
        inputs_first=not attributes.get("transB", 0),
        gain=float(attributes.get("alpha", 1.0)),
        bias_gain=float(attributes.get("beta", 1.0)),
        input_axis=0 if attributes.get("transA", 0) else 1,
    )
    return Meaning(OpKind.LINEAR, op.padded_inputs(3), traits)


def matmul(op: Operator) -> Meaning:
    """MatMul with a constant matrix on the right is a layer, at any rank; any other is not.

    The matrix may have leading axes of size 1 (the view takes them away), if the value has as many axes.
    """
    weight = op.value(1)
    if weight is None:
        return opaque(op, "its constant is on the left" if op.value(0) else "both of its factors are computed")
    if weight.constant and not _is_one_matrix(op, weight.constant.shape):
        return opaque(op, "its constant is no single matrix")
    traits = LayerTraits(inputs_first=True, channel_axis=-1, input_axis=-1)
    return Meaning(OpKind.LINEAR, (*op.inputs, None), traits)


def _is_one_matrix(op: Operator, sizes: tuple[int, ...]) -> bool:
    """Whether a MatMul's constant is one matrix, and the product has the axes of the value."""
    if len(sizes) <= MATRIX:
        return len(sizes) == MATRIX
    known = op.shape()
    return math.prod(sizes[:-MATRIX]) == 1 and known is not None and len(known) >= len(sizes)


def einsum(op: Operator) -> Meaning:
    """Einsum is not followed, whatever it amounts to."""
    return opaque(op, "which axes an equation multiplies is not followed: export the product as MatMul")


ROWS: dict[str, Row] = {
    "BatchNormalization": batch_normalization,
    "Conv": conv,
    "ConvTranspose": conv_transpose,
    "Einsum": einsum,
    "Gemm": gemm,
    "MatMul": matmul,
}

_FLOAT32_1E_5 = 9.999999747378752e-06
"""1e-5 as the float32 attribute that it is."""
