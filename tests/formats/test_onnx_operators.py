"""Differences, repetitions, sums over axes, picked positions, products of batches; refusals first."""

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
POSITIVE = CONV | {"g": np.array([0.5, 1, 2, 3], np.float32)}
NO_SHIFT = CONV | {"b": np.zeros(4, np.float32), "m": np.zeros(4, np.float32)}
BEFORE = {**parameters(3), "w": weight(4, 3, 3, 3), "k": weight(4)}
TOKENS = "float[2,5,6] x"
C = "c = Conv(x, w, k)"


def integers(**values: list[int]) -> dict[str, np.ndarray]:
    return {name: np.array(given, np.int64) for name, given in values.items()}


REFUSALS = [
    case(
        "no-linear-layer", f"{C} r = Relu(c) a = Sub(c, r) y = {bn('a')}", CONV, id="a subtrahend behind an activation"
    ),
    case("fan-out", f"{C} a = Sub(c, c) y = {bn('a')}", CONV, id="u − u above"),
    case(
        "channel-mismatch",
        f"{C} d = Conv(x, u) a = Sub(c, d) y = {bn('a')}",
        CONV | {"u": weight(1, 3, 3, 3)},
        id="a subtrahend that is broadcast along the channels",
    ),
    case(
        "no-linear-layer",
        f"n = {bn('x')} a = Sub(z, n) y = Conv(a, w, k)",
        BEFORE,
        x="float[2,3,6,6] x, float[2,3,6,6] z",
        id="subtracted from something else",
    ),
    case("no-linear-layer", f"{C} a = Sub(c, e) y = {bn('a')}", CONV | {"e": weight(4, 4, 4)}, id="minus a map"),
    case(
        "no-linear-layer",
        f"c = MatMul(w, x) y = {bn('c')}",
        {"w": weight(1, 4, 3), **parameters(4)},
        x="float[2,3,4] x",
        id="matrices of a batch on the left",
    ),
    case(
        "no-linear-layer",
        f"c = MatMul(x, w) y = {bn('c')}",
        {"w": weight(2, 6, 4), **parameters(5)},
        x=TOKENS,
        id="a matrix for each sample",
    ),
    case(
        "no-linear-layer",
        f"c = MatMul(x, w) y = {bn('c')}",
        {"w": weight(1, 6, 4), **parameters(5)},
        x="float[5,6] x",
        id="a constant that gives the product another axis",
    ),
    case(
        "no-linear-layer",
        f'c = Einsum<equation = "btk,kn->btn">(x, w) t = Transpose<perm = [0, 2, 1]>(c) y = {bn("t")}',
        {"w": weight(6, 4), **parameters(4)},
        x=TOKENS,
        id="an equation",
    ),
    case(
        "no-linear-layer",
        f"p = MatMul(x, w) a = Add(p, k) y = {bn('a')}",
        {"w": weight(3, 1), **parameters(4), "k": weight(4)},
        x="float[2,3] x",
        id="a sum that spreads one feature over four",
    ),
    case(
        "no-linear-layer",
        f"p = MatMul(x, w) a = Add(p, k) y = {bn('a')}",
        {"w": weight(3, 4), **parameters(2), "k": weight(3, 2, 4)},
        x="float[2,3] x",
        id="a sum that adds an axis",
    ),
    case(
        "no-linear-layer",
        f"p = MatMul(x, w) a = Add(p, k) y = {bn('a')}",
        {"w": weight(3, 4), **parameters(4), "k": weight(2, 4)},
        x="float[2,3] x",
        id="a sum with a row per sample",
    ),
    *(
        case(
            "no-linear-layer",
            f'{C} r = Resize<mode = "nearest", axes = [{axes}]>(c, , s) y = {bn("r")}',
            CONV | parameters(8) | {"s": np.array([2, 1], np.float32)},
            x=x,
            id=f"resized channels, axes {axes}, of {x}",
        )
        for axes in ("1, 2", "-3, -1")
        for x in ("float[2,3,6,6] x", "float[N,3,H,W] x")
    ),
    case(
        "no-linear-layer",
        f'{C} r = Resize<mode = "linear", coordinate_transformation_mode = "tf_crop_and_resize">(c, roi, , sizes) '
        f"y = {bn('r')}",
        CONV | integers(sizes=[2, 4, 6, 6]) | {"roi": np.array([0, 0, -0.5, -0.5, 1, 1, 1.5, 1.5], np.float32)},
        id="resized beyond the border",
    ),
    case(
        "no-linear-layer",
        f"{C} r = ReduceSum(c, a) y = {bn('r')}",
        CONV | integers(a=[2, 3]),
        x="float[N,3,H,W] x",
        id="a sum over unknown sizes",
    ),
    case("no-linear-layer", f"{C} r = ReduceSum(c) y = {bn('r')}", CONV | parameters(1), id="a sum over everything"),
    case("no-linear-layer", f"{C} r = ReduceMax(c, a) y = {bn('r')}", CONV | integers(a=[2]), id="a largest, negated"),
    case(
        "layout-moves-channels",
        f"{C} t = Tile(c, r) y = {bn('t')}",
        CONV | integers(r=[1, 2, 1, 1]) | parameters(8),
        id="repeated channels",
    ),
    case(
        "no-linear-layer",
        f"{C} z = Shape(x) t = Tile(c, z) y = {bn('t')}",
        {"w": weight(1, 3, 3, 3), **parameters(3)} | {"k": weight(1)},
        x="float[N,3,6,6] x",
        id="repeated as often as an input says",
    ),
    case(
        "layout-moves-channels",
        f"{C} t = Expand(c, r) y = {bn('t')}",
        {"w": weight(1, 3, 3, 3), "k": weight(1), **parameters(4), **integers(r=[2, 4, 4, 4])},
        id="one channel expanded to four",
    ),
    case(
        "no-linear-layer",
        f"{C} t = Expand(c, r) y = {bn('t')}",
        CONV | parameters(2) | integers(r=[3, 2, 4, 4, 4]),
        id="expanded by an axis",
    ),
    case(
        "layout-moves-channels",
        f"{C} p = Gather<axis = 1>(c, i) y = {bn('p')}",
        CONV | integers(i=[0, 1, 1, 3]),
        id="a channel picked twice, with two scales",
    ),
    case(
        "no-linear-layer",
        f"{C} h = Cast<to = 7>(z) p = Gather<axis = 1>(c, h) y = {bn('p')}",
        CONV,
        x="float[2,3,6,6] x, float[4] z",
        id="positions that are an input",
    ),
    case(
        "no-linear-layer",
        f"h = Cast<to = 7>(x) p = Gather(w, h) y = {bn('p')}",
        {"w": weight(6, 5), **parameters(3)},
        x="float[2,3] x",
        id="rows of a table (an embedding)",
    ),
    case(
        "layout-moves-channels",
        f"n = {bn('x')} p = Gather<axis = 1>(n, i) y = MatMul(p, w)",
        {**parameters(3), **integers(i=[1])} | {"i": np.array(1), "w": weight(6, 4)},
        id="one channel picked below, and its axis gone",
    ),
]


@pytest.mark.parametrize(("proto", "slug"), REFUSALS)
def test_kept_and_left_alone(proto: ModelProto, slug: str) -> None:
    assert_left_alone(proto, slug)


FOLDS = [
    case(
        "c,d", f"{C} d = Conv(x, u) a = Sub(c, d) y = {bn('a')}", CONV | {"u": weight(4, 3, 3, 3, seed=5)}, id="c − d"
    ),
    case(
        "c,d",
        f"r = Relu(x) {C} d = Conv(r, u, k) a = Sub(d, c) y = {bn('a')}",
        CONV | {"u": weight(4, 3, 3, 3, seed=5)},
        id="d − c",
    ),
    case(
        "c,d",
        f"{C} r = Relu(x) d = Conv(r, w) n = Neg(d) a = Sub(c, n) y = {bn('a')}",
        CONV,
        id="minus a negated value",
    ),
    case(
        "c,d",
        f"{C} h = Relu(x) s = Neg(c) d = Conv(h, u) a = Sub(d, s) y = {bn('a')}",
        CONV | {"u": weight(4, 3, 3, 3, seed=8)},
        id="a difference of a negated value",
    ),
    case("c", f"{C} n = Neg(c) y = {bn('n')}", CONV, id="negated"),
    case("y", f"n = {bn('x')} m1 = Neg(n) y = Conv(m1, w, k)", BEFORE, id="negated below"),
    case("c", f"{C} r = ReduceSum(c, a) y = {bn('r')}", CONV | integers(a=[2, 3]), id="a sum over positions"),
    case(
        "c",
        f"{C} r = ReduceSum<axes = [2], keepdims = 0>(c) y = {bn('r')}",
        CONV,
        opset=12,
        id="a sum over rows, axes as attribute",
    ),
    case(
        "c",
        f"{C} r = ReduceSum<keepdims = 0>(c, a) y = {bn('r')}",
        NO_SHIFT | integers(a=[-1, -2]),
        x="float[N,3,H,W] x",
        id="a sum over unknown sizes, no shift",
    ),
    case(
        "y",
        f"n = {bn('x')} r = ReduceSum<keepdims = 0>(n, a) y = Gemm(r, w, k)",
        {**parameters(3), "w": weight(3, 4), "k": weight(4), **integers(a=[2, 3])},
        id="a sum over positions, linear head",
    ),
    case(
        "c", f"{C} r = ReduceMax(c, a) y = {bn('r')}", POSITIVE | integers(a=[2, 3]), id="the largest, positive scales"
    ),
    case(
        "c",
        f'{C} r = Resize<mode = "nearest", axes = [-1, 2]>(c, , s) y = {bn("r")}',
        CONV | {"s": np.array([2, 3], np.float32)},
        x="float[N,3,H,W] x",
        id="resized by named axes",
    ),
    case("c", f"{C} t = Tile(c, r) y = {bn('t')}", CONV | integers(r=[1, 1, 2, 3]), id="tiled"),
    case(
        "c",
        f"{C} t = Tile(c, r) y = {bn('t')}",
        CONV | integers(r=[2, 1, 1, 1]),
        x="float[N,3,6,6] x",
        id="samples repeated",
    ),
    case(
        "c",
        f"{C} p = GlobalAveragePool(c) t = Expand(p, r) y = {bn('t')}",
        CONV | integers(r=[1, 1, 4, 4]),
        id="a mean expanded to a map (ASPP)",
    ),
    case(
        "c,d",
        f"{C} p = GlobalAveragePool(x) d = Conv(p, u) z = Shape(c) q = Slice(z, two, four) i = Slice(z, zero, two) "
        f"s = Concat<axis = 0>(i, q) t = Expand(d, s) j = Concat<axis = 1>(c, t) y = {bn('j')}",
        {"w": weight(4, 3, 3, 3), "k": weight(4), "u": weight(4, 3, 1, 1), **parameters(8)}
        | integers(zero=[0], two=[2], four=[4]),
        x="float[N,3,6,6] x",
        id="a mean expanded to another value's size, joined",
    ),
    case(
        "c",
        f"{C} p = Gather<axis = 1>(c, i) y = {bn('p')}",
        CONV | integers(i=[2, 0, 3, -3]),
        id="channels in another order",
    ),
    case(
        "c",
        f"{C} p = Gather<axis = 1>(c, i) y = {bn('p')}",
        CONV | {name: values[[0, 1, 1, 3]] for name, values in parameters(4).items()} | integers(i=[0, 1, 1, 3]),
        id="a channel picked twice, with one scale",
    ),
    case("c", f"{C} p = Gather<axis = 3>(c, i) y = {bn('p')}", CONV | integers(i=[2, 0]), id="some columns"),
    case(
        "c",
        f"c = MatMul(x, w) a = Add(c, k) p = Gather<axis = 1>(a, i) y = {bn('p')}",
        {"w": weight(6, 4), "k": weight(4), **parameters(4), "i": np.array(0)},
        x="float[N,5,6] x",
        id="the first token (a vision transformer's head)",
    ),
    case(
        "y",
        f"n = {bn('x')} p = Gather<axis = 2>(n, i) y = Gemm(p, w, k)",
        {**parameters(5), "w": weight(5, 4), "k": weight(4), "i": np.array(-1)},
        x="float[N,5,6] x",
        id="the last position, linear head",
    ),
    case(
        "y",
        f"n = {bn('x')} p = Gather<axis = 1>(n, i) y = Conv(p, w, k)",
        {**parameters(3), "w": weight(4, 4, 3, 3), "k": weight(4), **integers(i=[2, 2, 0, 1])},
        id="channels picked, conv below",
    ),
    case(
        "c",
        f"c = MatMul(x, w) t = Transpose<perm = [0, 2, 1]>(c) y = {bn('t')}",
        {"w": weight(1, 6, 4), **parameters(4)},
        x=TOKENS,
        id="a batch of one matrix",
    ),
    case(
        "c",
        f"c = MatMul(x, w) a = Add(c, k) t = Transpose<perm = [0, 1, 3, 2]>(a) u = Transpose<perm = [0, 2, 1, 3]>(t) "
        f"y = {bn('u')}",
        {"w": weight(1, 6, 4), "k": weight(1, 1, 1, 4), **parameters(4)},
        x="float[2,3,5,6] x",
        id="a batch of one matrix, with a bias, on more axes",
    ),
    case(
        "y",
        f"n = {bn('x')} t = Transpose(n) y = Gemm<transA = 1, alpha = 0.5>(t, w, k)",
        {"w": weight(6, 4), "k": weight(4), **parameters(6)},
        x="float[2,6] x",
        id="transposed twice, linear head",
    ),
    case(
        "y",
        f"n = {bn('x')} y = Gemm<transA = 1>(n, w)",
        {"w": weight(2, 4), **{name: np.full(6, values[0]) for name, values in parameters(6).items()}},
        x="float[2,6] x",
        id="one scale for all, a transposed matrix below",
    ),
    case(
        "y",
        f"n = {bn('x')} t = Transpose<perm = [0, 2, 1]>(n) y = MatMul(t, w)",
        {"w": weight(1, 5, 4), **parameters(5)},
        x=TOKENS,
        id="a batch of one matrix below",
    ),
]


@pytest.mark.parametrize(("proto", "into"), FOLDS)
def test_folded_exactly(proto: ModelProto, into: str) -> None:
    assert_scale_matters(proto, "g")
    result, found = folded(proto)
    assert [set(layers.split(",")) for layers in found.values()] == [set(into.split(","))]
    assert not [node for node in result.graph.node if node.op_type == "BatchNormalization"]
    assert_same_network(proto, result)
    assert result.graph.output == proto.graph.output


WHY = [
    pytest.param(
        "p, i = MaxPool<kernel_shape = [2, 2]>(c)", "it also outputs where the largest values are", id="indices"
    ),
    pytest.param('p = Resize<mode = "cubic">(c, , s)', "it is cubic", id="cubic"),
    pytest.param("p = com.example.Thing(c)", "what the operators of the domain 'com.example' do", id="another domain"),
    pytest.param("p = Cast<to = 11>(c)", "it changes the type", id="cast"),
    pytest.param("p = MatMul(e, c)", "its constant is on the left", id="constant on the left"),
    pytest.param("p = Add(c, e)", "its constant is not the same for every element of a channel", id="a constant map"),
    pytest.param('p = Einsum<equation = "nchw,hk->nckw">(c, e)', "export the product as MatMul", id="equation"),
]


@pytest.mark.parametrize(("text", "why"), WHY)
def test_what_is_in_the_way_says_why(text: str, why: str) -> None:
    tensors = CONV | {"e": weight(4, 4), "s": np.array([1, 1, 2, 2], np.float32)}
    (keep,) = fold(model(f"{C} {text} y = {bn('p')}", tensors)).plan.keeps
    assert keep.reason.slug == "no-linear-layer"
    assert why in keep.detail
