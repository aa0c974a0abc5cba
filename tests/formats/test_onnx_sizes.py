"""Sizes that shape inference does not find: told by who reads a value, or by what is left of a reshape."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper
from onnx_graphs import (
    assert_left_alone,
    assert_same_network,
    assert_scale_matters,
    bn,
    case,
    folded,
    model,
    parameters,
    verdicts,
    weight,
)

from bnfold import fold

ONE = {name: np.array([value]) for name, value in (("i0", 0), ("i1", 1), ("i2", 2), ("i3", 3), ("rest", -1))}
TOKENS = "float[N,L,6] x"
CUT = "z = Shape(x) n = Gather(z, i0) l = Gather(z, i1) nl = Mul(n, l) flat = Concat<axis = 0>(nl, rest) "
"""As torch's older exporter writes ``view(batch * tokens, -1)``: no size of it is known."""
ROWS = CUT.replace("i1", "i2")


def tensors(**others: Any) -> dict[str, Any]:
    return ONE | parameters(4) | others


REFUSALS = [
    case(
        "layout-moves-channels",
        f"{CUT} c = MatMul(x, w) t = Transpose<perm = [0, 2, 1]>(c) r = Reshape(t, flat) y = {bn('r')}",
        tensors(w=weight(6, 4)),
        x=TOKENS,
        id="as many tokens as channels, perhaps",
    ),
    case(
        "layout-moves-channels",
        f"{CUT} c = MatMul(x, w) r = Reshape(c, flat) y = {bn('r')}",
        tensors(w=weight(6, 8)),
        x=TOKENS,
        id="a batch norm that cannot fit the reshaped value",
    ),
]


@pytest.mark.parametrize(("proto", "slug"), REFUSALS)
def test_kept_and_left_alone(proto: ModelProto, slug: str) -> None:
    assert_left_alone(proto, slug)


FOLDS = [
    case(
        "c",
        f"{CUT} c = MatMul(x, w) r = Reshape(c, flat) y = {bn('r')}",
        tensors(w=weight(6, 4)),
        x=TOKENS,
        id="a batch norm says how many channels a flattened value has",
    ),
    case(
        "y",
        f"{ROWS} b1 = {bn('x')} t = Transpose<perm = [0, 2, 1]>(b1) r = Reshape(t, flat) y = Gemm<transB = 1>(r, w, k)",
        ONE | parameters(6) | {"w": weight(4, 6), "k": weight(4)},
        x="float[N,6,5] x",
        id="so does a Gemm below, as wide as the samples have tokens",
    ),
    case(
        "y",
        f"{ROWS} b1 = {bn('x')} t = Transpose<perm = [0, 2, 1]>(b1) r = Reshape(t, flat) y = MatMul(r, w)",
        ONE | parameters(6) | {"w": weight(6, 4)},
        x="float[N,6,5] x",
        id="or a MatMul",
    ),
    case(
        "c",
        "c = Conv(x, w) z = Shape(c) n = Gather(z, i0) l = Gather(z, i1) d = Div(l, i2) h = Gather(z, i2) "
        "o = Gather(z, i3) s = Concat<axis = 0>(n, i2, d, h, o) r = Reshape(c, s) "
        f"t = Transpose<perm = [0, 2, 1, 3, 4]>(r) e = Concat<axis = 0>(n, l, h, o) q = Reshape(t, e) y = {bn('q')}",
        tensors(w=weight(4, 3, 3, 3)),
        x="float[N,3,6,6] x",
        id="a channel shuffle whose sizes are divided",
    ),
]


@pytest.mark.parametrize(("proto", "into"), FOLDS)
def test_folded_exactly(proto: ModelProto, into: str) -> None:
    assert_scale_matters(proto, "g")
    result, found = folded(proto)
    assert list(found.values()) == [into]
    assert_same_network(proto, result)


def test_a_reshape_that_asks_for_more_than_a_machine_has_is_not_followed() -> None:
    body = f"b1 = {bn('x')} f = Flatten(b1) y = Gemm(f, w)"
    proto = model(body, parameters(4) | {"w": weight(4, 4)}, x=f"float[1,4,{1 << 20},{1 << 20}] x")
    assert verdicts(fold(proto).plan) == {"b1": "layout-moves-channels"}


def test_a_branch_says_nothing_of_values_that_are_not_its_own() -> None:
    """With one channel the other branch runs, and the value in front of both is no other one."""
    tensors = {"w1": weight(4, 1, 1, 1), "w3": weight(4, 3, 1, 1), "i1": np.array([1]), **parameters(4)}
    then, otherwise = ("t () => (p) { p = Conv(x, w1) }", "e () => (q) { q = Conv(x, w3) }")
    body = (
        f"z = Shape(x) c = Gather(z, i1) one = Equal(c, i1) f = Squeeze(one) r = If(f) <then_branch = {then}, "
        f"else_branch = {otherwise}> k = Cast<to = 1>(c) four = Expand(k, size) d = Conv(r, w4, four) y = {bn('d')}"
    )
    proto = model(body, tensors | {"size": np.array([4]), "w4": weight(4, 4, 1, 1)}, x="float[2,C,6,6] x")
    assert verdicts(fold(proto).plan) == {"y": "weight-not-constant"}


STALE = [
    pytest.param("c", [2, 8, 2, 4], id="other sizes"),
    pytest.param("r", [2, 16, 4], id="axes the other way round"),
    pytest.param("r", [1, 4, 16], id="another batch"),
    pytest.param("c", [2, 4, 16], id="fewer axes"),
]


@pytest.mark.parametrize(("name", "sizes"), STALE)
def test_a_value_info_of_an_earlier_model_is_not_believed(name: str, sizes: list[int]) -> None:
    """onnxruntime warns of them, and computes with what is there."""
    body = f"c = Conv(x, w) s = Constant<value_ints = [0, 0, -1]>() r = Reshape(c, s) y = {bn('r')}"
    proto = model(body, tensors(w=weight(4, 3, 3, 3)))
    proto.graph.value_info.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, sizes))
    result, found = folded(proto)
    assert found == {"y": "c"}
    assert_same_network(proto, result)


def test_a_value_info_behind_an_unknown_operator_is_believed() -> None:
    body = f"u = com.example.Unknown(x) c = MatMul(u, w) t = Transpose<perm = [0, 2, 1]>(c) y = {bn('t')}"
    proto = model(body, tensors(w=weight(6, 4)), x="float[2,5,6] x")
    assert "the rank of 'c'" in fold(proto).plan.keeps[0].detail
    proto.graph.value_info.append(helper.make_tensor_value_info("u", TensorProto.FLOAT, [2, 5, 6]))
    assert verdicts(fold(proto).plan) == {"y": "c"}


def test_sizes_that_callers_may_replace_are_not_known() -> None:
    body = f"c = MatMul(x, w) r = Reshape(c, sizes) y = {bn('r')}"
    proto = model(body, tensors(w=weight(3, 16), sizes=np.array([2, 4, 2, 2])), x="float[2,3] x")
    proto.graph.input.append(helper.make_tensor_value_info("sizes", TensorProto.INT64, [4]))
    assert verdicts(fold(proto).plan) == {"y": "layout-moves-channels"}
    assert verdicts(fold(proto, freeze=True).plan) == {"y": "c"}
