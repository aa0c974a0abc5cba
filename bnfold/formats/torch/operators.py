"""ATen calls in the words of the graph view: layers, batch norms, and what only passes values on. One function a row.

Operator and argument names are those of ATen's native_functions.yaml. Rows for what moves, pools or joins values are in
``movers``, for sums in ``sums``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from bnfold.core.graph import OpKind
from bnfold.core.traits import BatchNormTraits, LayerTraits, Traits, Window
from bnfold.formats.torch.calls import Call, is_stored


@dataclass(frozen=True)
class Meaning:
    """What a row of the table says of a call."""

    kind: OpKind
    inputs: tuple[str | None, ...]
    traits: Traits = None


Shapes = Mapping[str, tuple[int, ...]]
"""The shape of every value of a run."""
Row = Callable[[Call, Shapes], Meaning]


def opaque(call: Call) -> Meaning:
    """A call that is left alone."""
    return Meaning(OpKind.OPAQUE, call.inputs)


def _conv(call: Call, shapes: Shapes) -> Meaning:
    """conv1d/2d/3d, and convolution with transposed=False: weight (O, I/groups, …)."""
    if call.arguments.get("transposed", False):
        return _conv_transpose(call, shapes)
    return Meaning(OpKind.CONV, _layer_inputs(call), _conv_traits(call, shapes, inputs_first=False))


def _conv_transpose(call: Call, shapes: Shapes) -> Meaning:
    """conv_transpose1d/2d/3d: weight (I, O/groups, …)."""
    return Meaning(OpKind.CONV_TRANSPOSE, _layer_inputs(call), _conv_traits(call, shapes, inputs_first=True))


def _conv_traits(call: Call, shapes: Shapes, *, inputs_first: bool) -> LayerTraits:
    """The channels stand before the spatial axes: axis 1, or 0 where the input has no batch axis."""
    kernel = shapes[call.value("weight") or ""][2:]
    axis = len(shapes[call.outputs[0]]) - len(kernel) - 1
    is_pointwise = set(kernel) <= {1} and set(_numbers(call, "stride")) <= {1}
    is_padded = call.arguments.get("padding") != "valid" and any(_numbers(call, "padding"))
    if call.arguments.get("padding") == "same":
        is_padded = not is_pointwise
    reaches_all_alike = is_pointwise and not any(_numbers(call, "output_padding"))
    return LayerTraits(
        groups=int(str(call.arguments["groups"])),
        inputs_first=inputs_first,
        channel_axis=axis,
        input_axis=axis,
        takes_shift=not is_padded and (reaches_all_alike or not inputs_first),
        window=None if inputs_first else _window(call, kernel),
    )


def _window(call: Call, kernel: tuple[int, ...]) -> Window | None:
    """How a convolution moves; 'same' pads to the size of its input, with one more zero behind where that is odd."""
    strides, dilations, pads = (_numbers(call, name) for name in ("stride", "dilation", "padding"))
    before = after = pads
    if call.arguments.get("padding") == "valid":
        before = after = (0,) * len(kernel)
    elif call.arguments.get("padding") == "same":
        zeros = [dilation * (size - 1) for size, dilation in zip(kernel, dilations, strict=True)]
        before, after = tuple(zero // 2 for zero in zeros), tuple(zero - zero // 2 for zero in zeros)
    sizes = {len(numbers) for numbers in (strides, dilations, before, after)}
    return Window(kernel, strides, dilations, before, after) if sizes == {len(kernel)} else None


def _numbers(call: Call, name: str) -> tuple[int, ...]:
    """An argument that is a list of integers; none where it is absent or a word."""
    argument = call.arguments.get(name)
    return tuple(argument) if isinstance(argument, list | tuple) else ()


def _linear(call: Call, _shapes: Shapes) -> Meaning:
    """linear: weight (O, I), the channels are the last axis."""
    return Meaning(OpKind.LINEAR, _layer_inputs(call), LayerTraits(channel_axis=-1, input_axis=-1))


def _matrix_product(call: Call, shapes: Shapes) -> Meaning:
    """matmul, mm: a layer where the second factor is a stored matrix (I, O); nothing adds a bias to it."""
    data, weight = call.value("self"), call.value("other") or call.value("mat2")
    if not is_stored(weight) or len(shapes[weight or ""]) != 2 or len(shapes[data or ""]) < 2:  # noqa: PLR2004 - matrix
        return opaque(call)
    return Meaning(OpKind.LINEAR, (data, weight, None), MATRIX)


def _added_product(call: Call, shapes: Shapes) -> Meaning:
    """addmm: bias + x · weight, a layer where both are stored and no factors are given."""
    bias, data, weight = (call.value(name) for name in ("self", "mat1", "mat2"))
    is_plain = call.arguments["alpha"] == call.arguments["beta"] == 1
    if not (is_plain and is_stored(weight) and is_stored(bias)) or len(shapes[bias or ""]) != 1:
        return opaque(call)
    return Meaning(OpKind.LINEAR, (data, weight, bias), MATRIX)


def without_new_bias(meaning: Meaning) -> Meaning:
    """A layer whose caller gives it no bias where it has none."""
    if not isinstance(meaning.traits, LayerTraits):
        raise TypeError("only a layer has a bias")
    return replace(meaning, traits=replace(meaning.traits, gains_bias=False))


MATRIX = LayerTraits(inputs_first=True, channel_axis=-1, input_axis=-1, gains_bias=False)


def _layer_inputs(call: Call) -> tuple[str | None, ...]:
    return (call.value("input"), call.value("weight"), call.value("bias"))


def _batch_norm(call: Call, _shapes: Shapes) -> Meaning:
    """batch_norm and its parts; without running statistics the batch's are used whatever ``training`` says."""
    names = ("input", "weight", "bias", "running_mean", "running_var")
    inputs = tuple(call.value(name) for name in names)
    training = bool(call.arguments.get("training", False)) and inputs[3] is not None
    return Meaning(OpKind.BATCH_NORM, inputs, BatchNormTraits(float(str(call.arguments["eps"])), training))


def is_quantised_batch_norm(call: Call) -> bool:
    """Whether a call is one of torch's batch norms over quantised numbers, with an activation or without."""
    return call.op.startswith("quantized::batch_norm")


def quantised_batch_norm(call: Call) -> Meaning:
    """A batch norm over quantised numbers: no row of the table, since who views one must lock it."""
    inputs = tuple(call.value(name) for name in ("qx", "weight", "bias", "mean", "var"))
    return Meaning(OpKind.BATCH_NORM, inputs, BatchNormTraits(float(str(call.arguments["eps"])), training=False))


def _passes_through(call: Call, _shapes: Shapes) -> Meaning:
    """The same elements in the same places."""
    return Meaning(OpKind.LAYOUT, call.inputs)


def _dropout(call: Call, _shapes: Shapes) -> Meaning:
    """The dropouts, in place or not, which do nothing unless ``train``."""
    return opaque(call) if call.arguments["train"] else Meaning(OpKind.LAYOUT, call.inputs)


def _shape_only(call: Call, _shapes: Shapes) -> Meaning:
    """New tensors of the same shape."""
    return Meaning(OpKind.SHAPE, call.inputs)


BATCH_NORMS = ("batch_norm", "native_batch_norm", "_native_batch_norm_legit_no_training")
DROPOUTS = ("dropout", "alpha_dropout", "feature_dropout", "feature_alpha_dropout")

ROWS: dict[str, Row] = {
    **dict.fromkeys(("conv1d", "conv2d", "conv3d", "convolution"), _conv),
    **dict.fromkeys(("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"), _conv_transpose),
    "linear": _linear,
    **dict.fromkeys(("matmul", "mm"), _matrix_product),
    "addmm": _added_product,
    **dict.fromkeys(BATCH_NORMS, _batch_norm),
    **dict.fromkeys(("alias", "clone", "contiguous", "detach", "lift_fresh"), _passes_through),
    **dict.fromkeys(DROPOUTS, _dropout),
    **dict.fromkeys((f"{name}_" for name in DROPOUTS), _dropout),
    **dict.fromkeys(("empty_like", "ones_like", "zeros_like", "new_empty", "new_ones", "new_zeros"), _shape_only),
}
