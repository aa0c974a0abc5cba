"""Channel shuffles: a reshape, a transpose and a reshape that together only permute the channels; refusals first."""

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

CONV = {"w": weight(6, 3, 3, 3), "k": weight(6), **parameters(6)}
BELOW = {"w": weight(4, 6, 3, 3), "k": weight(4), **parameters(6)}
X6 = "float[2,6,5,5] x"


def shuffled(source: str, name: str, shape: str = "2, 6, 4, 4", groups: str = "2, 2, 3, 4, 4") -> str:
    """Six channels in groups, the groups' first channels first, as ShuffleNet has it."""
    return (
        f"{name}_g = Constant<value_ints = [{groups}]>() {name}_r = Reshape({source}, {name}_g) "
        f"{name}_t = Transpose<perm = [0, 2, 1, 3, 4]>({name}_r) "
        f"{name}_s = Constant<value_ints = [{shape}]>() {name} = Reshape({name}_t, {name}_s)"
    )


REFUSALS = [
    case(
        "layout-moves-channels",
        "c = Conv(x, w, k) p = Constant<value_ints = [2, 2, 3, 4, 4]>() r = Reshape(c, p) "
        "t = Transpose<perm = [0, 2, 1, 3, 4]>(r) s = Constant<value_ints = [2, 3, 2, 4, 4]>() "
        f"q = Reshape(t, s) i = Relu(q) h = Constant<value_ints = [2, 6, 4, 4]>() z = Reshape(i, h) y = {bn('z')}",
        CONV,
        id="an activation halfway",
    ),
    case(
        "layout-moves-channels",
        "c = Conv(x, w, k) p = Constant<value_ints = [2, 2, 3, 4, 4]>() r = Reshape(c, p) "
        "t = Transpose<perm = [0, 2, 3, 1, 4]>(r) s = Constant<value_ints = [2, 6, 4, 4]>() "
        f"q = Reshape(t, s) y = {bn('q')}",
        CONV,
        id="a transpose that mixes channels and rows",
    ),
    case(
        "layout-moves-channels",
        f"n = {bn('x')} p = Constant<value_ints = [2, 2, 3, 5, 5]>() r = Reshape(n, p) "
        "t = Transpose<perm = [0, 2, 1, 3, 4]>(r) y = Relu(t)",
        parameters(6),
        x=X6,
        id="half a shuffle below, then an activation",
    ),
    case(
        "layout-moves-channels",
        "c = Conv(x, w, k) p = Constant<value_ints = [2, 2, 3, 4, 4]>() r = Reshape(c, p) "
        "t = Transpose<perm = [2, 0, 1, 3, 4]>(r) s = Constant<value_ints = [2, 6, 4, 4]>() "
        f"q = Reshape(t, s) y = {bn('q')}",
        CONV,
        id="a shuffle across samples",
    ),
    case(
        "fan-out",
        f"c = Conv(x, w, k) {shuffled('c', 's')} n = {bn('s')} h = ReduceSum(s_t) y = Add(n, h)",
        CONV,
        id="halfway somebody looks",
    ),
    case(
        "fan-out",
        f"c = Conv(x, w, k) {shuffled('c', 's')} n = {bn('s')} y = Add(n, c)",
        CONV,
        id="before the shuffle somebody looks",
    ),
]


@pytest.mark.parametrize(("proto", "slug"), REFUSALS)
def test_kept_and_left_alone(proto: ModelProto, slug: str) -> None:
    assert_left_alone(proto, slug)


FOLDS = [
    case("c", f"c = Conv(x, w, k) {shuffled('c', 's')} y = {bn('s')}", CONV, id="conv, shuffle"),
    case(
        "c",
        f"c = Conv<group = 3>(x, w, k) {shuffled('c', 's')} y = {bn('s')}",
        CONV | {"w": weight(6, 1, 3, 3)},
        id="conv in groups, shuffle",
    ),
    case(
        "c",
        f"c = Conv(x, w, k) {shuffled('c', 's', '-1, 6, 4, 4', '-1, 2, 3, 4, 4')} y = {bn('s')}",
        CONV,
        x="float[N,3,6,6] x",
        id="any batch",
    ),
    case(
        "c",
        f"c = Conv(x, w, k) {shuffled('c', 's', '0, -1, 4, 4', '0, 2, -1, 4, 4')} y = {bn('s')}",
        CONV,
        x="float[N,3,6,6] x",
        id="sizes left to the reshape",
    ),
    case(
        "c",
        "c = Conv(x, w, k) z = Shape(c) batch = Slice(z, zero, one) hw = Slice(z, two, four) "
        "p = Concat<axis = 0>(batch, cut, hw) r = Reshape(c, p) t = Transpose<perm = [0, 2, 1, 3, 4]>(r) "
        f"s = Concat<axis = 0>(batch, all, hw) q = Reshape(t, s) y = {bn('q')}",
        CONV
        | {name: np.array([value]) for name, value in (("zero", 0), ("one", 1), ("two", 2), ("four", 4), ("all", -1))}
        | {"cut": np.array([2, 3])},
        x="float[N,3,H,W] x",
        id="any batch, any height and width",
    ),
    case(
        "c",
        "c = MatMul(x, w) p = Constant<value_ints = [2, 5, 2, 3]>() r = Reshape(c, p) "
        "t = Transpose<perm = [0, 1, 3, 2]>(r) s = Constant<value_ints = [10, 6]>() q = Reshape(t, s) "
        f"y = {bn('q')}",
        {"w": weight(4, 6), **parameters(6)},
        x="float[2,5,4] x",
        id="tokens",
    ),
    case(
        "c",
        f"c = Conv(x, w, k) {shuffled('c', 's')} {shuffled('s', 'u', groups='2, 3, 2, 4, 4')} y = {bn('u')}",
        CONV,
        id="there and back",
    ),
    case(
        "c,d",
        f"c = Conv(x, w, k) d = Conv(x, w, k) j = Concat<axis = 1>(c, d) "
        f"{shuffled('j', 's', '2, 12, 4, 4', '2, 2, 6, 4, 4')} y = {bn('s')}",
        {"w": weight(6, 3, 3, 3), "k": weight(6), **parameters(12)},
        id="two joined branches (ShuffleNet v2)",
    ),
    case(
        "y",
        f"n = {bn('x')} {shuffled('n', 's', '2, 6, 5, 5', '2, 2, 3, 5, 5')} y = Conv(s, w, k)",
        BELOW,
        x=X6,
        id="shuffle, conv below",
    ),
    case(
        "y",
        f"n = {bn('x')} {shuffled('n', 's', '2, 6, 5, 5', '2, 2, 3, 5, 5')} y = Conv<group = 2>(s, w, k)",
        BELOW | {"w": weight(4, 3, 3, 3)},
        x=X6,
        id="shuffle, conv in groups below",
    ),
    case(
        "y",
        "p = Constant<value_ints = [2, 2, 3, 5, 5]>() "
        f"n = {bn('x')} r = Reshape(n, p) t = Transpose<perm = [0, 2, 1, 3, 4]>(r) f = Flatten(t) y = Gemm(f, w, k)",
        {"w": weight(150, 4), "k": weight(4), **parameters(6)},
        x=X6,
        id="half a shuffle, flattened, a linear head",
    ),
    case(
        "c",
        f"c = Gemm(x, w) s = Constant<value_ints = [2, 2, 3, 2]>() r = Reshape(c, s) "
        f"t = Transpose<perm = [0, 2, 1, 3]>(r) f = Flatten(t) y = {bn('f')}",
        {"w": weight(3, 12), **parameters(12)},
        x="float[2,3] x",
        id="linear, every feature moved elsewhere",
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


def test_what_halves_a_shuffle_is_named() -> None:
    body = "c = Conv(x, w, k) s = Constant<value_ints = [2, 3, 2, 4, 4]>() r = Reshape(c, s) i = Relu(r) "
    proto = model(f"{body} h = Constant<value_ints = [2, 6, 4, 4]>() z = Reshape(i, h) y = {bn('z')}", CONV)
    (keep,) = fold(proto).plan.keeps
    assert keep.node is not None
    assert keep.node.label == "z"
