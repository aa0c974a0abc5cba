"""Arithmetic with constants: runs beside a batch norm, batch norms written out, and runs beside layers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import ModelProto
from onnx_graphs import BN, assert_same_network, assert_scale_matters, case, folded, model, parameters, verdicts, weight

from bnfold import fold

CONV = {"w": weight(4, 3, 3, 3), "k": weight(4), **parameters(4)}
PER_CHANNEL = {name: weight(4, 1, 1, seed=seed) for name, seed in (("s", 2), ("t", 3), ("u", 4))}
ONE = {"one": np.array(0.7, np.float32), "two": np.array([1.3], np.float32)}
EVERYTHING = CONV | PER_CHANNEL | ONE
C = "c = Conv(x, w, k)"
NORM = f"BatchNormalization(%s, {BN})"


LEFT_ALONE = [
    case({}, f"{C} y = Mul(c, s)", CONV | {"s": weight(4)}, id="a [C] constant multiplies the width, not the channels"),
    case({}, f"{C} y = Add(c, s)", CONV | {"s": weight(1, 4, 4, 4)}, id="a constant per element"),
    case({}, f"{C} y = Div(s, c)", EVERYTHING, id="a constant divided by the value"),
    case({}, f"{C} y = Mul(c, s)", CONV | {"s": weight(1, 4, 1, 1, 1)}, id="a constant that raises the rank"),
    case(
        {},
        "d = Conv(x, v1) y = Mul(d, s)",
        {"v1": weight(1, 3, 3, 3), **PER_CHANNEL},
        id="a constant that spreads one channel over four",
    ),
    case({}, "r = Relu(x) y = Mul(r, one)", ONE, id="no layer"),
    case({}, f"{C} h = Mul(c, s) y = Add(h, c)", EVERYTHING, id="the layer's output is read twice"),
    case(
        {}, f"{C} h = Mul(c, zero) y = Div(h, zero)", CONV | {"zero": np.array(0, np.float32)}, id="a division by zero"
    ),
    case(
        {"h": "no-linear-layer"},
        "r = Relu(x) h = Mul(r, s) a = Add(h, t) y = Relu(a)",
        {"s": weight(3, 1, 1, seed=2), "t": weight(3, 1, 1, seed=3)},
        id="a batch norm written out, between activations",
    ),
]


@pytest.mark.parametrize(("proto", "expected"), LEFT_ALONE)
def test_left_alone(proto: ModelProto, expected: dict[str, str]) -> None:
    result = fold(proto)
    assert verdicts(result.plan) == expected
    assert result.plan.also_folded == ()
    assert result.model == proto


WRITTEN_OUT = [
    case({"h": "c"}, f"{C} h = Mul(c, s) y = Add(h, t)", EVERYTHING, id="scale, shift"),
    case(
        {"h": "c"}, f"{C} h = Sub(c, s) n = Div(h, t) o = Mul(n, u) y = Add(t, o)", EVERYTHING, id="the whole formula"
    ),
    case(
        {"h": "c"},
        f"{C} e = Constant<value_float = 0.001>() p = Add(vv, e) q = Sqrt(p) h = Sub(c, s) y = Div(h, q)",
        EVERYTHING | {"vv": np.abs(weight(4, 1, 1, seed=8)) + 0.1},
        id="√(var + ε) computed in the graph",
    ),
    case(
        {"h": "c"},
        "c = MatMul(x, w) h = Mul(c, s) y = Sub(h, t)",
        {"w": weight(6, 4), "s": weight(4, seed=2), "t": weight(4, seed=3)},
        x="float[N,6] x",
        id="behind a matrix product",
    ),
    case(
        {"h": "y"},
        "h = Mul(x, s) a = Add(h, t) y = Conv(a, w, k)",
        {"w": weight(4, 3, 3, 3), "k": weight(4), "s": weight(3, 1, 1, seed=2), "t": weight(3, 1, 1, seed=3)},
        id="before a layer",
    ),
]


@pytest.mark.parametrize(("proto", "expected"), WRITTEN_OUT)
def test_a_batch_norm_that_is_written_out_folds(proto: ModelProto, expected: dict[str, str]) -> None:
    assert_scale_matters(proto, "s")
    result, found = folded(proto)
    assert found == expected
    assert {node.op_type for node in result.graph.node} <= {"Conv", "MatMul", "Add", "Constant"}
    assert_same_network(proto, result)


BESIDE = [
    case(1, f"{C} y = Mul(c, s)", EVERYTHING, id="multiplied"),
    case(1, f"{C} y = Mul(s, c)", EVERYTHING, id="constant first"),
    case(1, f"{C} y = Sub(s, c)", EVERYTHING, id="constant − x"),
    case(1, f"{C} y = Div(c, s)", EVERYTHING, id="divided"),
    case(1, f"{C} y = Add(c, one)", EVERYTHING, id="a single number"),
    case(2, f"{C} h = Mul(c, two) i = Identity(h) y = Add(i, one)", EVERYTHING, id="two runs"),
    case(
        1,
        "c = MatMul(x, w) r = Reshape(c, shape) t = Transpose<perm = [0, 2, 1, 3]>(r) y = Mul(t, one)",
        {"w": weight(6, 8), "shape": np.array([2, 5, 2, 4]), **ONE},
        x="float[2,5,6] x",
        id="the scale of attention",
    ),
    case(
        1,
        "a = Sub(x, s) h = Div(a, one) y = Conv(h, w, k)",
        {"w": weight(4, 3, 3, 3), "k": weight(4), "s": weight(3, 1, 1), **ONE},
        id="the normalisation of the input",
    ),
]


@pytest.mark.parametrize(("proto", "runs"), BESIDE)
def test_other_runs_beside_a_layer_fold_too(proto: ModelProto, runs: int) -> None:
    result = fold(proto)
    assert len(result.plan) == 0
    assert len(result.plan.also_folded) == runs
    assert not {"Mul", "Div", "Sub"} & {node.op_type for node in result.model.graph.node}
    assert_same_network(proto, folded(proto)[0])


MIXED = [
    case({"y": "c"}, f"{C} h = Mul(c, one) y = {NORM % 'h'}", EVERYTHING, id="number, batch norm"),
    case({"n": "c"}, f"{C} n = {NORM % 'c'} y = Mul(n, s)", EVERYTHING, id="batch norm, scale"),
    case({"n": "c"}, f"{C} a = Add(c, s) n = {NORM % 'a'} y = Sub(one, n)", EVERYTHING, id="bias, batch norm, 1 − x"),
    case(
        {"n": "c", "h": "c"},
        f"{C} n = {NORM % 'c'} h = Mul(n, s) y = Add(h, t)",
        EVERYTHING,
        id="batch norm, written-out one",
    ),
]


@pytest.mark.parametrize(("proto", "expected"), MIXED)
def test_composed_and_folded_as_one(proto: ModelProto, expected: dict[str, str]) -> None:
    result, found = folded(proto)
    assert found == expected
    assert [node.op_type for node in result.graph.node] == ["Conv"]
    assert_same_network(proto, result)
    assert_scale_matters(proto, "g")


THREE = parameters(3) | {name: weight(3, 1, 1, seed=seed) for name, seed in (("s", 2), ("t", 3))} | ONE
NORM_3 = f"BatchNormalization(%s, {BN})"

BETWEEN_ACTIVATIONS = [
    case(["Mul", "Add"], f"r = Relu(x) h = Mul(r, s) n = {NORM_3 % 'h'} y = Relu(n)", THREE, id="scale, batch norm"),
    case(["Mul", "Add"], f"r = Relu(x) h = Add(r, one) n = {NORM_3 % 'h'} y = Relu(n)", THREE, id="number, batch norm"),
    case(["Mul", "Add"], f"r = Relu(x) n = {NORM_3 % 'r'} h = Sub(one, n) y = Relu(h)", THREE, id="batch norm, 1 − x"),
    case(
        ["Mul", "Add"],
        f"r = Relu(x) n = {NORM_3 % 'r'} h = Mul(n, s) a = Add(h, t) y = Relu(a)",
        THREE,
        id="batch norm, written-out one",
    ),
    case(
        ["Mul", "Add"],
        f"n = {NORM_3 % 'x'} h = Mul(n, s) y = Relu(h) z = Neg(x)",
        THREE,
        y="float[] y, float[] z",
        id="an input with another reader",
    ),
]


@pytest.mark.parametrize(("proto", "operators"), BETWEEN_ACTIVATIONS)
def test_a_batch_norm_beside_only_constants_becomes_part_of_them(proto: ModelProto, operators: list[str]) -> None:
    result, found = folded(proto)
    assert "h" in found["n"]
    assert [node.op_type for node in result.graph.node if node.op_type not in {"Relu", "Neg"}] == operators
    assert_same_network(proto, result)
    assert_scale_matters(proto, "g")


def test_a_uniform_batch_norm_is_the_same_on_every_axis() -> None:
    same = {name: np.full(5, value, np.float32) for name, value in (("g", 2.0), ("b", 3.0), ("m", 1.0), ("v", 4.0))}
    proto = model(f"c = MatMul(x, w) y = {NORM % 'c'}", {"w": weight(6, 4), **same}, x="float[2,5,6] x")
    result, found = folded(proto)
    assert found == {"y": "c"}
    assert_same_network(proto, result)


def test_the_report_counts_written_out_ones_as_batch_norms_and_other_runs_apart(tmp_path: Any) -> None:
    from bnfold import inspect

    path = tmp_path / "model.onnx"
    proto = model(
        f"{C} h = Mul(c, s) a = Add(h, t) r = Relu(a) d = Conv(r, v4) y = Mul(d, one)",
        EVERYTHING | {"v4": weight(2, 4, 1, 1)},
    )
    path.write_bytes(proto.SerializeToString())
    report = inspect(path)
    assert (report.found, report.folded, report.also_folded) == (1, 1, 1)
    assert report.batch_norms[0].form == "decomposed"


def test_integer_division_truncates_and_is_no_affine_map() -> None:
    proto = model("d = Div(x, two) y = Mul(d, two)", {"two": np.array(2)}, x="int64[2,3] x", y="int64[] y")
    assert fold(proto).model == proto


def number(value: float) -> Any:
    return np.array(value, np.float32)


ROUNDS_ON_PURPOSE = [
    case({}, "d = Add(x, big) y = Sub(d, big)", {"big": number(3 * 2**22)}, id="to whole numbers"),
    case({}, "d = Add(x, big) y = Add(d, less)", {"big": number(2048), "less": number(-2048)}, id="float16's"),
    case(
        {},
        "s = Mul(x, small) d = Add(s, big) y = Sub(d, big)",
        {"small": number(2**-20), "big": number(8)},
        id="a small value and a constant that is large beside it",
    ),
    case({}, f"{C} d = Add(c, big) y = Sub(d, big)", CONV | {"big": number(3 * 2**22)}, id="below a layer"),
    case(
        {"y": "no-linear-layer"},
        f"d = Add(x, big) e = Sub(d, big) y = {NORM % 'e'}",
        parameters(3) | {"big": number(3 * 2**22)},
        id="above a batch norm",
    ),
]


@pytest.mark.parametrize(("proto", "expected"), ROUNDS_ON_PURPOSE)
def test_large_constants_that_cancel_round_on_purpose(proto: ModelProto, expected: dict[str, str]) -> None:
    result = fold(proto)
    assert verdicts(result.plan) == expected
    assert result.plan.also_folded == ()
    assert result.model == proto


@pytest.mark.parametrize(
    ("body", "constants"),
    [
        pytest.param("d = Sub(x, a) e = Div(d, b)", (32768, 65536), id="16-bit samples are centred and scaled"),
        pytest.param("d = Sub(x, a) e = Div(d, b)", (1500, 500), id="a large mean"),
        pytest.param("d = Mul(x, a) e = Add(d, b)", (2048, 1), id="a large factor"),
    ],
)
def test_large_constants_that_stay_are_a_normalisation(body: str, constants: tuple[float, float]) -> None:
    tensors = CONV | {"a": number(constants[0]), "b": number(constants[1])}
    proto = model(f"{body} y = Conv(e, w, k)", tensors)
    result = fold(proto)
    assert len(result.plan.also_folded) == 1
    assert_same_network(proto, result.model)


def test_a_run_with_one_number_takes_in_a_batch_norm_on_another_axis() -> None:
    body = f"a = Concat<axis = 3>(x, x) h = Mul(one, a) t = Transpose<perm = [0, 3, 1, 2]>(h) y = {NORM % 't'}"
    proto = model(body, parameters(8) | ONE, x="float[N,6,5,4] x")
    result, found = folded(proto)
    assert found == {"y": "h"}
    assert_same_network(proto, result)
