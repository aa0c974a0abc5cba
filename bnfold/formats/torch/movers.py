"""ATen calls that move, pick, pool or join values, in the words of the graph view: one function a row.

The run has shown every shape, so that axes and sizes are known.
"""

from __future__ import annotations

from itertools import accumulate

from bnfold.core.graph import OpKind
from bnfold.core.traits import (
    ChannelMap,
    ConcatTraits,
    Cut,
    PadTraits,
    Permute,
    PoolTraits,
    Reshape,
    SliceTraits,
    Window,
)
from bnfold.formats.torch.calls import Call
from bnfold.formats.torch.operators import Meaning, Row, Shapes, opaque


def _reshape(call: Call, _shapes: Shapes) -> Meaning:
    """view, reshape, flatten, squeeze, … : row-major; what goes where follows from the two shapes.

    Of the tensor that view_as and reshape_as are given they read the shape alone.
    """
    if "dtype" in call.arguments:  # view(dtype) reads the same bits as other numbers
        return opaque(call)
    return Meaning(OpKind.LAYOUT, call.inputs[:1], Reshape())


def _permute(call: Call, shapes: Shapes) -> Meaning:
    """permute: output axis j is input axis dims[j]."""
    rank = len(shapes[call.inputs[0]])
    return Meaning(OpKind.LAYOUT, call.inputs[:1], Permute(tuple(axis % rank for axis in _integers(call, "dims"))))


def _transpose(call: Call, shapes: Shapes) -> Meaning:
    """transpose, swapaxes: two axes change places; t, which has no arguments, the only two."""
    order = list(range(len(shapes[call.inputs[0]])))
    first, second = (call.arguments.get(name) for name in ("dim0", "dim1"))
    if isinstance(first, int) and isinstance(second, int):
        order[first], order[second] = order[second], order[first]
    elif call.op == "t":
        order.reverse()
    else:
        return opaque(call)
    return Meaning(OpKind.LAYOUT, call.inputs[:1], Permute(tuple(order)))


def _pixel_shuffle(call: Call, shapes: Shapes) -> Meaning:
    """pixel_shuffle: input channel (c, b₁, b₂) goes to output channel c."""
    blocks = _integer(call, "upscale_factor") ** 2
    return _rearranged(call, shapes, tuple((i, i // blocks) for i in range(shapes[call.inputs[0]][-3])))


def _pixel_unshuffle(call: Call, shapes: Shapes) -> Meaning:
    """pixel_unshuffle: input channel c goes to the output channels (c, b₁, b₂)."""
    blocks = _integer(call, "downscale_factor") ** 2
    return _rearranged(call, shapes, tuple((o // blocks, o) for o in range(shapes[call.outputs[0]][-3])))


def _rearranged(call: Call, shapes: Shapes, pairs: tuple[tuple[int, int], ...]) -> Meaning:
    """On (N, C, H, W) alone: a ChannelMap is one of axis 1."""
    is_batched = len(shapes[call.inputs[0]]) == len(("N", "C", "H", "W"))
    return Meaning(OpKind.LAYOUT, call.inputs[:1], ChannelMap(pairs)) if is_batched else opaque(call)


def _average_pool(call: Call, shapes: Shapes) -> Meaning:
    """avg_pool1d/2d/3d: where padding counts, or another divisor is given, the weights do not sum to 1 everywhere.

    What ceil_mode lets a window reach over, beyond the padding, does not count.
    """
    is_mean = call.arguments.get("divisor_override") is None
    leaves_out = not any(_integers(call, "padding")) or not call.arguments.get("count_include_pad", True)
    traits = PoolTraits(
        is_max=False,
        keeps_shift=is_mean and leaves_out,
        axes=_spatial(call, shapes),
        window=_mean_window(call, shapes) if is_mean else None,
    )
    return _pool(call, shapes, traits)


def _mean_window(call: Call, shapes: Shapes) -> Window | None:
    """How an average pool moves; None where not every mean is over as many numbers."""
    axes = len(_spatial(call, shapes))
    kernel, strides, pads = (_each(_integers(call, name), axes) for name in ("kernel_size", "stride", "padding"))
    is_uneven = any(pads) and not call.arguments.get("count_include_pad", True)
    if is_uneven or call.arguments.get("ceil_mode"):
        return None
    return Window(kernel, strides or kernel, (1,) * axes, pads, pads)


def _each(numbers: tuple[int, ...], axes: int) -> tuple[int, ...]:
    """A number for each axis, where one stands for all."""
    return numbers * axes if len(numbers) == 1 else numbers


def _mean_pool(call: Call, shapes: Shapes) -> Meaning:
    """Adaptive means, and resizing with nearest or linear interpolation: the weights sum to 1."""
    return _pool(call, shapes, PoolTraits(is_max=False, axes=_spatial(call, shapes)))


def _max_pool(call: Call, shapes: Shapes) -> Meaning:
    """max_pool1d/2d/3d (padding is −∞)."""
    return _pool(call, shapes, PoolTraits(is_max=True, axes=_spatial(call, shapes)))


def _reduction(call: Call, shapes: Shapes) -> Meaning:
    """Means and largest values over given dimensions.

    Not sum: how often that adds up a shift depends on the sizes of the inputs, and a run shows one of each.
    """
    axes = _integers(call, "dim")
    if not axes or call.arguments.get("dtype") is not None:
        return opaque(call)
    rank = len(shapes[call.inputs[0]])
    traits = PoolTraits(
        is_max=call.op == "amax",
        axes=tuple(sorted(axis % rank for axis in axes)),
        keeps_axes=bool(call.arguments.get("keepdim")),
    )
    return _pool(call, shapes, traits)


def _pool(call: Call, _shapes: Shapes, traits: PoolTraits) -> Meaning:
    return Meaning(OpKind.POOL, call.inputs[:1], traits)


def _spatial(call: Call, shapes: Shapes) -> tuple[int, ...]:
    """The axes that a pooling works on: all that follow the channels, counted from the operator's name (…2d)."""
    name = call.op.partition(".")[0]
    rank = len(shapes[call.inputs[0]])
    return tuple(range(rank - int(name[-2]), rank))


def _pad(call: Call, shapes: Shapes) -> Meaning:
    """pad, constant_pad_nd: pairs from the last axis backwards; zeros, or values of the input."""
    pads = _integers(call, "pad")
    mode = call.arguments.get("mode", "constant")
    if mode == "constant" and call.arguments.get("value") not in {None, 0}:
        return opaque(call)
    rank = len(shapes[call.inputs[0]])
    axes = tuple(rank - 1 - position // 2 for position in range(0, len(pads), 2) if any(pads[position : position + 2]))
    return Meaning(OpKind.PAD, call.inputs[:1], PadTraits(axes, with_zeros=mode == "constant"))


def _cat(call: Call, shapes: Shapes) -> Meaning:
    """cat; legacy empty tensors of one axis, which it skips, are not followed."""
    rank = len(shapes[call.outputs[0]])
    if any(len(shapes[value]) != rank for value in call.inputs):
        return opaque(call)
    return Meaning(OpKind.CONCAT, call.inputs, ConcatTraits(_integer(call, "dim") % rank))


def _stack(call: Call, shapes: Shapes) -> Meaning:
    """stack: joins along an axis that the values lack."""
    axis = _integer(call, "dim") % len(shapes[call.outputs[0]])
    return Meaning(OpKind.CONCAT, call.inputs, ConcatTraits(axis, adds_axis=True))


def _split(call: Call, shapes: Shapes) -> Meaning:
    """split, split_with_sizes, chunk: one part after the other."""
    axis = _integer(call, "dim") % len(shapes[call.inputs[0]])
    stops = list(accumulate(shapes[output][axis] for output in call.outputs))
    starts = [0, *stops[:-1]]
    cuts = tuple((Cut(axis, range(start, stop)),) for start, stop in zip(starts, stops, strict=True))
    return Meaning(OpKind.SLICE, call.inputs[:1], SliceTraits(cuts))


def _slice(call: Call, shapes: Shapes) -> Meaning:
    """slice: from start to end by step, along one axis."""
    shape = shapes[call.inputs[0]]
    axis = _integer(call, "dim") % len(shape)
    start, end = call.arguments.get("start"), call.arguments.get("end")
    if not isinstance(start, int | None) or not isinstance(end, int | None):
        return opaque(call)
    positions = range(shape[axis])[start : end : _integer(call, "step")]
    is_whole = len(positions) == shape[axis]
    return Meaning(OpKind.SLICE, call.inputs[:1], SliceTraits((() if is_whole else (Cut(axis, positions),),)))


def _integers(call: Call, name: str) -> tuple[int, ...]:
    """An argument that is an integer or a list of them; none where it is absent."""
    argument = call.arguments.get(name)
    if isinstance(argument, list | tuple):
        return tuple(int(item) for item in argument)
    return (argument,) if isinstance(argument, int) else ()


def _integer(call: Call, name: str) -> int:
    argument = call.arguments[name]
    if not isinstance(argument, int):
        raise TypeError(f"{call.op} has no integer {name!r}")
    return argument


RESHAPES = (
    "view",
    "reshape",
    "_unsafe_view",
    "_reshape_alias",
    "flatten",
    "unflatten",
    "squeeze",
    "unsqueeze",
    "view_as",
    "reshape_as",
)
RESIZES = ("upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d")
LINEAR_RESIZES = ("upsample_linear1d", "upsample_bilinear2d", "upsample_trilinear3d")
SIZES = ("1d", "2d", "3d")

ROWS: dict[str, Row] = {
    **dict.fromkeys(RESHAPES, _reshape),
    "permute": _permute,
    **dict.fromkeys(("transpose", "swapaxes", "swapdims", "t"), _transpose),
    "pixel_shuffle": _pixel_shuffle,
    "pixel_unshuffle": _pixel_unshuffle,
    **{f"avg_pool{size}": _average_pool for size in SIZES},
    **{f"adaptive_avg_pool{size}": _mean_pool for size in SIZES},
    **{f"max_pool{size}": _max_pool for size in SIZES},
    **dict.fromkeys((*RESIZES, *LINEAR_RESIZES), _mean_pool),
    **dict.fromkeys(("mean", "amax"), _reduction),
    **dict.fromkeys(("pad", "constant_pad_nd"), _pad),
    **dict.fromkeys(("cat", "concat", "concatenate"), _cat),
    "stack": _stack,
    **dict.fromkeys(("split", "split_with_sizes", "chunk"), _split),
    "slice": _slice,
}
