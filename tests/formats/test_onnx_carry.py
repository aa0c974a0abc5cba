"""Affines that travel: across layout, pools, sums, joins and slices to a layer above or below; refusals first."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import ModelProto
from onnx_graphs import (
    assert_left_alone,
    assert_same_network,
    assert_scale_matters,
    bn,
    case,
    folded,
    model,
    parameters,
    weight,
)

from bnfold import fold

CONV = {"w": weight(4, 3, 3, 3), "k": weight(4), **parameters(4)}
POSITIVE = {"w": weight(4, 3, 3, 3), "k": weight(4), **parameters(4), "g": np.array([0.5, 1, 2, 3], np.float32)}
NO_SHIFT = CONV | {"b": np.zeros(4, np.float32), "m": np.zeros(4, np.float32)}
BEFORE = {**parameters(3), "w": weight(4, 3, 3, 3), "k": weight(4)}
BEFORE_NO_SHIFT = BEFORE | {"b": np.zeros(3, np.float32), "m": np.zeros(3, np.float32)}
DENSE = {"w": weight(6, 4), "k": weight(4), **parameters(4)}
X3 = "float[2,5,6] x"


REFUSALS = [
    # layout
    case(
        "layout-moves-channels",
        f"c = Conv(x, w, k) f = Flatten(c) y = {bn('f')}",
        {"w": weight(4, 3, 3, 3), "k": weight(4), **parameters(64)},
        id="a scale per pixel after flatten",
    ),
    case(
        "channel-mismatch",
        f"c = Conv(x, w, k) t = Transpose<perm = [0, 2, 1, 3]>(c) y = {bn('t')}",
        CONV,
        id="a transpose that puts another axis of the same size in the channels' place",
    ),
    case(
        "channel-mismatch",
        f"c = Conv(x, w, k) s = Constant<value_ints = [2, 4, 4, 4]>() t = Transpose<perm = [0, 2, 3, 1]>(c) "
        f"r = Reshape(t, s) n = Transpose<perm = [0, 2, 1, 3]>(r) h = Reshape(n, s) q = Transpose(h) y = {bn('q')}",
        CONV,
        id="a chain of transposes that scrambles equal sizes",
    ),
    case(
        "layout-moves-channels",
        f"c = Conv(x, w, k) s = Constant<value_ints = [2, 8, 2, 4]>() r = Reshape(c, s) y = {bn('r')}",
        {"w": weight(4, 3, 3, 3), "k": weight(4), **parameters(8)},
        id="a reshape that cuts each channel into two with scales of their own",
    ),
    case(
        "layout-moves-channels",
        f"c = Conv(x, w, k) f = Flatten(c) y = {bn('f')}",
        {"w": weight(4, 3, 3, 3), "k": weight(4), **parameters(64)},
        x="float[N,3,H,W] x",
        y="float[N,64] y",
        id="flatten of unknown sizes",
    ),
    case(
        "layout-moves-channels",
        f"c = Conv(x, w, k) s = SpaceToDepth<blocksize = 2>(c) y = {bn('s')}",
        {"w": weight(4, 3, 3, 3), "k": weight(4), **parameters(16)},
        id="space to depth with a scale per pixel of a block",
    ),
    case(
        "layout-moves-channels",
        f"n = {bn('x')} d = DepthToSpace<blocksize = 2>(n) y = Conv(d, w)",
        {**parameters(8), "w": weight(4, 2, 3, 3)},
        x="float[2,8,3,3] x",
        id="depth to space below with different scales in a block",
    ),
    # pools and pads
    case(
        "no-linear-layer",
        f"c = Conv(x, w, k) p = MaxPool<kernel_shape = [2, 2]>(c) y = {bn('p')}",
        CONV,
        id="max of a negative scale",
    ),
    case(
        "padded-input",
        "c = Conv(x, w, k) p = AveragePool<kernel_shape = [3, 3], pads = [1, 1, 1, 1], count_include_pad = 1>(c) "
        f"y = {bn('p')}",
        CONV,
        id="a mean that counts its padding",
    ),
    case(
        "padded-input",
        f"c = Conv(x, w, k) p = Pad(c, pads) y = {bn('p')}",
        CONV | {"pads": np.array([0, 0, 1, 1, 0, 0, 1, 1])},
        id="zero padding between",
    ),
    case(
        "no-linear-layer",
        f"c = Conv(x, w, k) p = Pad(c, pads, five) y = {bn('p')}",
        CONV | {"pads": np.array([0, 0, 1, 1, 0, 0, 1, 1]), "five": np.array(5, np.float32)},
        id="padding with fives",
    ),
    case(
        "layout-moves-channels",
        f"c = Conv(x, w, k) p = Pad(c, pads) y = {bn('p')}",
        {"w": weight(4, 3, 3, 3), "k": weight(4), **parameters(6), "pads": np.array([0, 1, 0, 0, 0, 1, 0, 0])},
        id="padding of the channels",
    ),
    case(
        "channel-mismatch",
        f"c = Conv(x, w, k) r = ReduceMean<keepdims = 0>(c, axes) y = {bn('r')}",
        CONV | {"axes": np.array([1, 3])},
        id="a mean over the channels",
    ),
    case(
        "no-linear-layer",
        f"c = Conv(x, w, k) p = LpPool<kernel_shape = [2, 2]>(c) y = {bn('p')}",
        CONV,
        id="an Lp pool",
    ),
    case(
        "no-linear-layer",
        f"c = Conv(x, w, k) p, i = MaxPool<kernel_shape = [2, 2]>(c) y = {bn('p')}",
        POSITIVE,
        y="float[] y, int64[] i",
        id="a max pool whose indices are read",
    ),
    # sums and joins
    case(
        "fan-out",
        f"c = Conv(x, w, k) a = Add(c, c) y = {bn('a')}",
        CONV,
        id="u + u above",
    ),
    case(
        "no-linear-layer",
        f"c = Conv(x, w, k) r = Relu(x) s = Conv(r, w, k) q = Relu(s) a = Add(c, q) y = {bn('a')}",
        CONV,
        id="an addend behind an activation",
    ),
    case(
        "channel-mismatch",
        f"c = Conv(x, w, k) d = Conv(x, u) a = Add(c, d) y = {bn('a')}",
        CONV | {"u": weight(1, 3, 3, 3)},
        id="an addend that is broadcast along the channels",
    ),
    case(
        "model-output",
        f"c = Conv(x, w, k) d = Conv(x, w, k) a = Add(c, d) y = {bn('a')}",
        CONV,
        y="float[] c, float[] y",
        id="an addend that is an output",
    ),
    case(
        "no-linear-layer",
        f"c = Conv(x, w, k) r = Relu(x) j = Concat<axis = 1>(c, r) y = {bn('j')}",
        {"w": weight(4, 3, 1, 1), "k": weight(4), **parameters(7)},
        id="a joined branch without a layer",
    ),
    case(
        "fan-out",
        "c = Conv(x, w, k) s = Constant<value_ints = [2, 2]>() p, q = Split<axis = 2>(c, s) "
        f"n = {bn('p')} y = Add(n, q)",
        CONV,
        id="half of the rows, the other half is read",
    ),
    case(
        "fan-out",
        f"c = Conv(x, w, k) f = GlobalAveragePool(c) n = {bn('f')} y = Add(n, c)",
        CONV,
        id="squeeze and excite",
    ),
    # below
    case("padded-input", f"n = {bn('x')} y = Conv<pads = [1, 1, 1, 1]>(n, w, k)", BEFORE, id="a padded conv below"),
    case("padded-input", f'n = {bn("x")} y = Conv<auto_pad = "SAME_UPPER">(n, w, k)', BEFORE, id="a 'same' conv below"),
    case(
        "padded-input",
        f"n = {bn('x')} y = ConvTranspose(n, w)",
        {**parameters(3), "w": weight(3, 4, 3, 3)},
        id="a transposed conv below",
    ),
    case(
        "padded-input",
        f"n = {bn('x')} y = ConvTranspose<strides = [2, 2]>(n, w)",
        {**parameters(3), "w": weight(3, 4, 1, 1)},
        id="a strided 1×1 transposed conv below",
    ),
    case(
        "no-linear-layer",
        f"n = {bn('x')} c = Conv(n, w, k) r = Relu(n) d = Conv(r, w, k) y = Add(c, d)",
        BEFORE,
        id="one reader is no layer",
    ),
    case(
        "no-linear-layer",
        f"n = {bn('x')} y = Conv(n, w, k)",
        BEFORE,
        y="float[] n, float[] y",
        id="below, and an output",
    ),
    case(
        "no-linear-layer",
        f"n = {bn('x')} a = Add(n, x) y = Conv(a, w, k)",
        BEFORE,
        id="a residual sum below",
    ),
    case(
        "channel-mismatch",
        f"n = {bn('x')} y = MatMul(n, w)",
        {**parameters(6), "w": weight(6, 4)},
        x="float[2,6,6] x",
        id="matmul below on another axis of the same size",
    ),
    case(
        "channel-mismatch",
        f"n = {bn('x')} y = Gemm<transA = 1>(n, w)",
        {**parameters(6), "w": weight(6, 4)},
        x="float[6,6] x",
        id="a square transposed matrix below",
    ),
    case(
        "no-linear-layer",
        f"n = {bn('x')} y = Conv(z, w, k) h = Relu(n)",
        BEFORE,
        x="float[2,3,6,6] x, float[2,3,6,6] z",
        y="float[] y, float[] h",
        id="pre-activation",
    ),
]


@pytest.mark.parametrize(("proto", "slug"), REFUSALS)
def test_kept_and_left_alone(proto: ModelProto, slug: str) -> None:
    assert_left_alone(proto, slug)


ABOVE = [
    case("c", f"c = Conv(x, w, k) t = Transpose<perm = [0, 1, 3, 2]>(c) y = {bn('t')}", CONV, id="transposed rows"),
    case(
        "c",
        f"c = MatMul(x, w) t = Transpose<perm = [0, 2, 1]>(c) y = {bn('t')}",
        {k: v for k, v in DENSE.items() if k != "k"},
        x=X3,
        id="linear, transpose",
    ),
    case(
        "c",
        f"c = MatMul(x, w) a = Add(c, k) t = Transpose<perm = [0, 2, 1]>(a) y = {bn('t')}",
        DENSE,
        x="float[N,L,6] x",
        id="linear with bias, transpose, dynamic",
    ),
    case(
        "c",
        f"c = MatMul(x, w) s = Constant<value_ints = [10, 4]>() r = Reshape(c, s) y = {bn('r')}",
        DENSE,
        x=X3,
        id="linear, flatten to rows (vision transformers)",
    ),
    case(
        "c",
        f"c = MatMul(x, w) s = Constant<value_ints = [-1, 4]>() r = Reshape(c, s) y = {bn('r')}",
        DENSE,
        x="float[N,5,6] x",
        id="linear, flatten to rows, symbolic batch",
    ),
    case(
        "c",
        f"c = MatMul(x, w) f = Flatten<axis = 2>(c) y = {bn('f')}",
        DENSE,
        x=X3,
        id="linear, Flatten(2)",
    ),
    case(
        "c",
        f"c = Gemm(x, w) s = Constant<value_ints = [-1, 4, 2, 2]>() r = Reshape(c, s) y = {bn('r')}",
        {"w": weight(6, 16), **parameters(4)},
        x="float[N,6] x",
        id="linear, unflatten to an image (DCGAN)",
    ),
    case(
        "c", f"c = Conv(x, w, k) p = GlobalAveragePool(c) f = Flatten(p) y = {bn('f')}", CONV, id="global mean, flatten"
    ),
    case(
        "c",
        f"c = Conv(x, w, k) p = GlobalAveragePool(c) s = Squeeze(p, axes) y = {bn('s')}",
        CONV | {"axes": np.array([2, 3])},
        id="global mean, squeeze",
    ),
    case(
        "c",
        f"c = Gemm(x, w, k) u = Unsqueeze(c, axes) y = {bn('u')}",
        DENSE | {"axes": np.array([2])},
        x="float[N,6] x",
        id="unsqueeze",
    ),
    case("c", f"c = Conv(x, w, k) p = AveragePool<kernel_shape = [2, 2]>(c) y = {bn('p')}", CONV, id="average pool"),
    case(
        "c",
        f"c = Conv(x, w, k) p = AveragePool<kernel_shape = [3, 3], pads = [1, 1, 1, 1]>(c) y = {bn('p')}",
        CONV,
        id="average pool that does not count its padding",
    ),
    case(
        "c",
        "c = Conv(x, w, k) p = AveragePool<kernel_shape = [3, 3], pads = [1, 1, 1, 1], count_include_pad = 1>(c) "
        f"y = {bn('p')}",
        NO_SHIFT,
        id="average pool that counts its padding, without a shift",
    ),
    case(
        "c",
        f"c = Conv(x, w, k) p = MaxPool<kernel_shape = [2, 2]>(c) y = {bn('p')}",
        POSITIVE,
        id="max pool, positive scales",
    ),
    case(
        "c",
        f"c = Conv(x, w, k) p = MaxPool<kernel_shape = [3, 3], pads = [1, 1, 1, 1]>(c) y = {bn('p')}",
        POSITIVE,
        id="padded max pool",
    ),
    case("c", f"c = Conv(x, w, k) p = GlobalMaxPool(c) y = {bn('p')}", POSITIVE, id="global max pool"),
    case(
        "c",
        f"c = Conv(x, w, k) r = ReduceMean<keepdims = 0>(c, axes) y = {bn('r')}",
        CONV | {"axes": np.array([-1, -2])},
        id="mean of negative axes",
    ),
    case(
        "c", f"c = Conv(x, w, k) r = ReduceMean<axes = [2, 3]>(c) y = {bn('r')}", CONV, opset=13, id="mean by attribute"
    ),
    case(
        "c",
        f"c = MatMul(x, w) r = ReduceMean<keepdims = 0>(c, axes) y = {bn('r')}",
        DENSE | {"axes": np.array([1])},
        x=X3,
        id="mean over tokens",
    ),
    case(
        "c",
        f'c = Conv(x, w, k) r = Resize<mode = "nearest">(c, , scales) y = {bn("r")}',
        CONV | {"scales": np.array([1, 1, 2, 2], np.float32)},
        id="upsampled",
    ),
    case(
        "c",
        f"c = Conv(x, w, k) p = Pad(c, pads) y = {bn('p')}",
        NO_SHIFT | {"pads": np.array([0, 0, 1, 1, 0, 0, 1, 1])},
        id="zero padding, no shift",
    ),
    case(
        "c",
        f'c = Conv(x, w, k) p = Pad<mode = "reflect">(c, pads) y = {bn("p")}',
        CONV | {"pads": np.array([0, 0, 1, 1, 0, 0, 1, 1])},
        id="reflect padding",
    ),
    case(
        "c",
        f'c = Conv(x, w, k) p = Pad<mode = "edge", pads = [0, 0, 1, 1, 0, 0, 1, 1]>(c) y = {bn("p")}',
        CONV,
        opset=10,
        id="edge padding, opset 10",
    ),
    case("c,d", f"c = Conv(x, w, k) d = Conv(x, w, k) a = Add(c, d) y = {bn('a')}", CONV, id="a sum of two convs"),
    case(
        "c,d,e",
        f"c = Conv(x, w, k) d = Conv(x, w, k) e = Conv(x, w, k) a = Sum(c, d, e) y = {bn('a')}",
        CONV,
        id="a sum of three",
    ),
    case(
        "c,d",
        f"c = Conv(x, w, k) d = Conv(x, w, k) j = Concat<axis = 1>(c, d) y = {bn('j')}",
        {"w": weight(4, 3, 3, 3), "k": weight(4), **parameters(8)},
        id="joined channels (MixConv)",
    ),
    case(
        "c,d",
        f"c = Conv(x, w, k) d = Conv(x, w, k) j = Concat<axis = 2>(c, d) y = {bn('j')}",
        CONV,
        id="joined rows",
    ),
    case(
        "c",
        "c = Conv(x, w, k) s = Constant<value_ints = [2, 2]>() p, q = Split<axis = 1>(c, s) "
        f"n = {bn('p')} y = Mul(n, q)",
        {"w": weight(4, 3, 3, 3), "k": weight(4), **parameters(2)},
        id="half of the channels, the other half is read",
    ),
    case(
        "c",
        f"c = Conv(x, w, k) s = Slice(c, one, three, axis) y = {bn('s')}",
        {
            "w": weight(4, 3, 3, 3),
            "k": weight(4),
            **parameters(2),
            "one": np.array([1]),
            "three": np.array([3]),
            "axis": np.array([1]),
        },
        id="a slice of the channels",
    ),
    case(
        "c",
        f"c = Conv(x, w, k) s = Slice<starts = [0, 1], ends = [9, 3], axes = [2, 3]>(c) y = {bn('s')}",
        CONV,
        opset=9,
        id="a crop",
    ),
    case(
        "c",
        f"c = Conv(x, w, k) d = DepthToSpace<blocksize = 2>(c) y = {bn('d')}",
        {"w": weight(8, 3, 3, 3), "k": weight(8), **parameters(2)},
        id="depth to space",
    ),
    case(
        "c",
        f'c = Conv(x, w, k) d = DepthToSpace<blocksize = 2, mode = "CRD">(c) y = {bn("d")}',
        {"w": weight(8, 3, 3, 3), "k": weight(8), **parameters(2)},
        x="float[N,3,H,W] x",
        id="pixel shuffle of dynamic size",
    ),
    case(
        "c",
        f"c = Conv(x, w, k) s = SpaceToDepth<blocksize = 2>(c) y = {bn('s')}",
        {
            "w": weight(4, 3, 3, 3),
            "k": weight(4),
            **{name: np.tile(values, 4) for name, values in parameters(4).items()},
        },
        id="space to depth with equal scales in a block",
    ),
    case("c", f"c = Conv(x, w, k) h = Cast<to = 1>(c) y = {bn('h')}", CONV, id="a cast that changes nothing"),
]

BELOW = [
    case("y", f"n = {bn('x')} y = Conv(n, w, k)", BEFORE, id="conv"),
    case("y", f"n = {bn('x')} y = Conv(n, w)", BEFORE, id="conv without bias"),
    case("y", f'n = {bn("x")} y = Conv<auto_pad = "VALID">(n, w, k)', BEFORE, id="conv, auto_pad VALID"),
    case(
        "y",
        f"n = {bn('x')} y = Conv<strides = [2, 2], dilations = [2, 2]>(n, w, k)",
        BEFORE,
        id="strided, dilated conv",
    ),
    case(
        "y",
        f"n = {bn('x')} y = Conv<group = 3>(n, w, k)",
        {**parameters(3), "w": weight(6, 1, 3, 3), "k": weight(6)},
        id="depthwise",
    ),
    case("y", f"n = {bn('x')} y = Conv<pads = [1, 1, 1, 1]>(n, w, k)", BEFORE_NO_SHIFT, id="padded conv, no shift"),
    case(
        "y",
        f'n = {bn("x")} y = Conv<auto_pad = "SAME_UPPER">(n, w, k)',
        BEFORE | {"w": weight(4, 3, 1, 1)},
        id="a 1×1 'same' conv pads nothing",
    ),
    case(
        "y",
        f"n = {bn('x')} y = ConvTranspose(n, w, k)",
        {**parameters(3), "w": weight(3, 4, 1, 1), "k": weight(4)},
        id="1×1 transposed conv",
    ),
    case(
        "y",
        f"n = {bn('x')} y = ConvTranspose<strides = [2, 2]>(n, w)",
        {**parameters(3), "w": weight(3, 4, 3, 3), "b": np.zeros(3, np.float32), "m": np.zeros(3, np.float32)},
        id="transposed conv, no shift",
    ),
    case(
        "y",
        f"n = {bn('x')} y = Gemm(n, w, k)",
        {**parameters(6), "w": weight(6, 4), "k": weight(4)},
        x="float[N,6] x",
        id="gemm (linear head)",
    ),
    case(
        "y",
        f"n = {bn('x')} y = Gemm<alpha = 0.5, beta = 2.0, transB = 1>(n, w, k)",
        {**parameters(6), "w": weight(4, 6), "k": weight(4)},
        x="float[N,6] x",
        id="gemm with gains",
    ),
    case("y", f"n = {bn('x')} y = MatMul(n, w)", {**parameters(6), "w": weight(6, 4)}, x="float[N,6] x", id="matmul"),
    case(
        "m2",
        f"n = {bn('x')} m2 = MatMul(n, w) y = Add(m2, k)",
        {**parameters(6), "w": weight(6, 4), "k": weight(4)},
        x="float[N,6] x",
        id="matmul with bias",
    ),
    case(
        "y",
        f"n = {bn('x')} t = Transpose<perm = [0, 2, 1]>(n) y = MatMul(t, w)",
        {**parameters(5), "w": weight(5, 4)},
        x=X3,
        id="transpose, matmul",
    ),
    case(
        "y",
        f"n = {bn('x')} f = Flatten(n) y = Gemm(f, w, k)",
        {**parameters(3), "w": weight(108, 4), "k": weight(4)},
        id="flatten repeats each channel",
    ),
    case(
        "y",
        f"n = {bn('x')} t = Transpose<perm = [0, 2, 3, 1]>(n) f = Flatten(t) y = Gemm(f, w, k)",
        {**parameters(3), "w": weight(108, 4), "k": weight(4)},
        id="flatten of channels-last tiles them",
    ),
    case(
        "y",
        f"n = {bn('x')} p = GlobalAveragePool(n) f = Flatten(p) y = Gemm(f, w, k)",
        {**parameters(3), "w": weight(3, 4), "k": weight(4)},
        id="global mean, linear head",
    ),
    case(
        "y",
        f"n = {bn('x')} r = ReduceMean<keepdims = 0>(n, axes) y = Gemm(r, w, k)",
        {**parameters(3), "w": weight(3, 4), "k": weight(4), "axes": np.array([2, 3])},
        id="mean over positions, linear head",
    ),
    case(
        "c,d",
        f"n = {bn('x')} c = Conv(n, w, k) d = Conv(n, w, k) y = Mul(c, d)",
        BEFORE,
        id="two readers swallow it",
    ),
    case(
        "y",
        f"n = {bn('x')} r = Relu(z) j = Concat<axis = 1>(n, r) y = Conv(j, w, k)",
        {**parameters(3), "w": weight(4, 6, 3, 3), "k": weight(4)},
        x="float[2,3,6,6] x, float[2,3,6,6] z",
        id="joined with something else",
    ),
    case(
        "c,d",
        f"n = {bn('x')} s = Constant<value_ints = [1, 2]>() p, q = Split<axis = 1>(n, s) "
        "c = Conv(p, u) d = Conv(q, w) y = Mul(c, d)",
        {**parameters(3), "u": weight(4, 1, 3, 3), "w": weight(4, 2, 3, 3)},
        id="split, each part swallows its own",
    ),
    case("y", f"n = {bn('x')} a = Add(n, n) y = Conv(a, w, k)", BEFORE, id="u + u below"),
    case(
        "y",
        f"n = {bn('x')} p = Pad(n, pads) y = Conv(p, w, k)",
        BEFORE_NO_SHIFT | {"pads": np.array([0, 0, 1, 1, 0, 0, 1, 1])},
        id="zero padding, no shift, conv",
    ),
    case(
        "y",
        f"n = {bn('x')} d = SpaceToDepth<blocksize = 2>(n) y = Conv(d, w, k)",
        {**parameters(3), "w": weight(4, 12, 2, 2), "k": weight(4)},
        id="space to depth, conv",
    ),
    case(
        "y",
        f"r = Relu(x) n = {bn('r')} y = Conv(n, w, k) z = Relu(r)",
        BEFORE,
        y="float[] y, float[] z",
        id="the value before it has other readers",
    ),
]


@pytest.mark.parametrize(("proto", "into"), ABOVE + BELOW)
def test_folded_exactly(proto: ModelProto, into: str) -> None:
    gamma = next(node for node in proto.graph.node if node.op_type == "BatchNormalization").input[1]
    assert_scale_matters(proto, gamma)
    result, found = folded(proto)
    assert [set(layers.split(",")) for layers in found.values()] == [set(into.split(","))]
    assert not [node for node in result.graph.node if node.op_type == "BatchNormalization"]
    assert_same_network(proto, result)
    assert result.graph.output == proto.graph.output
    assert result.graph.input == proto.graph.input


def test_two_batch_norms_that_have_to_stay_become_one() -> None:
    body = f"r = Relu(x) n = {bn('r')} o = {bn('n', '2')} y = Relu(o)"
    proto = model(body, parameters(3) | parameters(3, "2", seed=4))
    result, found = folded(proto)
    assert found == {"n": "no-linear-layer", "o": "n"}
    assert [node.op_type for node in result.graph.node] == ["Relu", "BatchNormalization", "Relu"]
    assert_same_network(proto, result)


def test_three_in_a_row_fold_into_the_layer_all_the_same() -> None:
    body = f"c = Conv(x, w, k) n = {bn('c')} o = {bn('n', '2')} y = {bn('o', '3')}"
    proto = model(body, CONV | parameters(4, "2", seed=4) | parameters(4, "3", seed=5))
    result, found = folded(proto)
    assert found == {"n": "c", "o": "c", "y": "c"}
    assert_same_network(proto, result)


NEUTRAL = {
    "g": np.array([1, 2, 3], np.float32),
    "b": np.array([0, 2, 0], np.float32),
    "m": np.array([0, 2, 0], np.float32),
    "v": np.array([1, 4, 9], np.float32),
}
"""With ε = 0 the scale is 1 and the shift 0 exactly."""


@pytest.mark.parametrize(
    ("body", "operators"),
    [
        pytest.param(f"r = Relu(x) n = {bn('r')} y = Relu(n)", ["Relu", "Relu"], id="between activations"),
        pytest.param(f"n = {bn('x')} y = Relu(n)", ["Relu"], id="on an input"),
        pytest.param(f"r = Relu(x) y = {bn('r')}", ["Relu"], id="at an output"),
        pytest.param(f"y = {bn('x')}", ["Identity"], id="between input and output"),
        pytest.param(
            f"r = Relu(x) y = {bn('r')} z = Neg(r)", ["Relu", "Identity", "Neg"], id="the value has other readers"
        ),
    ],
)
def test_a_batch_norm_that_changes_nothing_goes_without_a_neighbour(body: str, operators: list[str]) -> None:
    outputs = "float[] y, float[] z" if " z =" in body else "float[] y"
    proto = model(body.replace("BatchNormalization(", "BatchNormalization<epsilon = 0.0>("), NEUTRAL, y=outputs)
    result, _ = folded(proto)
    assert [plan.rule for plan in fold(proto).plan.folds] == ["identity"]
    assert [node.op_type for node in result.graph.node] == operators
    assert_same_network(proto, result)


def test_a_dense_network_names_the_activation_and_the_readers() -> None:
    body = (
        f"c = Conv(x, w, k) n = {bn('c')} r = Relu(n) d = Conv(r, u) j = Concat<axis = 1>(c, d) "
        f"o = {bn('j', '2')} q = Relu(o) e = Conv(q, v8) y = Concat<axis = 1>(j, e)"
    )
    tensors = {"w": weight(4, 3, 1, 1), "k": weight(4), "u": weight(4, 4, 1, 1), "v8": weight(4, 8, 1, 1)}
    result = fold(model(body, tensors | parameters(4) | parameters(8, "2")))
    first, second = result.plan.keeps
    for keep, readers in ((first, "'n', Concat 'j'"), (second, "'o', Concat 'y'")):
        assert keep.reason.slug == "fan-out"
        assert readers in keep.detail
        assert "Relu" in keep.detail


def test_resizing_by_constant_scales_needs_no_shapes() -> None:
    body = f"""c = Conv(x, w, k) one = Constant<value_floats = [1.0, 1.0]>() two = Constant<value_floats = [2.0, 2.0]>()
        s = Concat<axis = 0>(one, two) r = Resize<mode = "linear">(c, , s) y = {bn("r")}"""
    proto = model(body, CONV, x="float[N,3,H,W] x")
    result, found = folded(proto)
    assert found == {"y": "c"}
    assert_same_network(proto, result)


def test_a_reshape_of_unknown_sizes_says_so() -> None:
    body = f"c = Conv(x, w, k) f = Flatten(c) y = {bn('f')}"
    proto = model(
        body, {"w": weight(4, 3, 3, 3), **parameters(64)} | {"k": weight(4)}, x="float[N,3,H,W] x", y="float[N,64] y"
    )
    (keep,) = fold(proto).plan.keeps
    assert "sizes are unknown at Flatten" in keep.detail
