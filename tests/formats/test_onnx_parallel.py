"""Layers, means and batch norms beside one another in a sum: what becomes one layer, and what stays as it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import ModelProto
from onnx_graphs import assert_same_network, assert_scale_matters, bn, case, folded, model, parameters, verdicts, weight

import bnfold
from bnfold import fold

PARAMETERS = parameters(3) | parameters(3, "2", seed=2) | parameters(3, "3", seed=3)
TENSORS = {
    **PARAMETERS,
    "w5": weight(3, 3, 5, 5),
    "w3": weight(3, 3, 3, 3),
    "w2": weight(3, 3, 2, 2),
    "w1": weight(3, 3, 1, 1),
    "v1": weight(3, 3, 1, 1, seed=4),
    "wide": weight(3, 3, 1, 3),
    "tall": weight(3, 3, 3, 1),
    "k": weight(3),
    "depthwise": weight(3, 1, 3, 3),
    "point": weight(3, 1, 1, 1),
    "s": weight(3, 1, 1, seed=6),
    "t": weight(3, 1, 1, seed=7),
}
SQUARES = {**PARAMETERS, "w": weight(3, 3), "u": weight(3, 3, seed=4), "k": weight(3), "l": weight(3, seed=5)}
C3 = "c = Conv<pads = [1, 1, 1, 1]>(r, w3, k)"
MEAN = "p = AveragePool<kernel_shape = [3, 3], pads = [1, 1, 1, 1], count_include_pad = 1>(r)"
N = f"n = {bn('r')}"
ROWS = "float[2,3] x"


def block(
    verdict: Any,
    body: str,
    tensors: dict[str, Any] | None = None,
    *,
    id: str,  # noqa: A002 - pytest's word
    **options: Any,
) -> Any:
    return case(verdict, f"r = Relu(x) {body}", TENSORS if tensors is None else tensors, id=id, **options)


REFUSALS = [
    block("fan-out", f"{C3} {N} s1 = Add(c, n) h = Sigmoid(c) y = Mul(s1, h)", id="the layer is read elsewhere"),
    block("fan-out", f"{C3} {N} s1 = Add(c, n) h = Sigmoid(n) y = Mul(s1, h)", id="the batch norm is read elsewhere"),
    block("model-output", f"{C3} {N} y = Add(c, n)", y="float[] y, float[] c", id="the layer is an output"),
    block("model-output", f"{C3} {N} y = Add(c, n)", y="float[] y, float[] n", id="the batch norm is an output"),
    block("unlike-sibling", f"{C3} h = Sigmoid(r) n = {bn('h')} y = Add(c, n)", id="another input"),
    block(
        "unlike-sibling", f"c = Conv<strides = [2, 2]>(r, w1) {N} y = Add(c, n)", x="float[2,3,1,1] x", id="stride 2"
    ),
    block("unlike-sibling", f"c = Conv(r, w3) {N} y = Add(c, n)", x="float[2,3,3,3] x", id="a sum that broadcasts"),
    block(
        "unlike-sibling",
        f"c = Conv<pads = [1, 1, 1, 1], dilations = [2, 2]>(r, w2) {N} y = Add(c, n)",
        id="an even kernel without a middle",
    ),
    block(
        "unlike-sibling",
        f"{C3} {N} y = Add(c, n)",
        TENSORS | {"w3": weight(1, 3, 3, 3), "k": weight(1)},
        id="one channel, which the sum broadcasts",
    ),
    block(
        "unlike-sibling",
        f"{C3} p = AveragePool<kernel_shape = [3, 3], pads = [1, 1, 1, 1]>(r) n = {bn('p')} y = Add(c, n)",
        id="a mean that leaves padding out",
    ),
    block(
        "unlike-sibling",
        f"c = Conv(r, w3) p = AveragePool<kernel_shape = [3, 3], ceil_mode = 1>(r) n = {bn('p')} y = Add(c, n)",
        id="a mean that may reach over the end",
    ),
    block(
        "unlike-sibling",
        f"{C3} p = MaxPool<kernel_shape = [3, 3], pads = [1, 1, 1, 1]>(r) n = {bn('p')} y = Add(c, n)",
        id="a maximum",
    ),
    block("no-linear-layer", f"c = ConvTranspose(r, w1) {N} y = Add(c, n)", id="a transposed convolution"),
    block("no-linear-layer", f"{C3} h = Sigmoid(c) {N} y = Add(h, n)", id="an activation behind the layer"),
    block("no-linear-layer", f"h = Sigmoid(r) {N} y = Add(h, n)", id="no layer"),
    block("no-linear-layer", f"{C3} {N} y = Mul(c, n)", id="a product"),
    block("no-linear-layer", f"{C3} {N} y = Sub(n, c)", id="what the layer is subtracted from"),
    block(
        "no-linear-layer", f"{C3} {N} h = Neg(n) a = Neg(h) y = Sub(a, c)", id="all that the layer is subtracted from"
    ),
    block("no-linear-layer", f"{C3} {N} y = Mean(c, n)", id="a mean divides by the number of its addends"),
    block(
        "training-mode",
        f"{C3} n, a, z = BatchNormalization<training_mode = 1>(r, g, b, m, v) y = Add(c, n)",
        id="in training mode",
    ),
    block(
        "weight-not-constant",
        f"h = Sigmoid(w3) c = Conv<pads = [1, 1, 1, 1]>(r, h) {N} y = Add(c, n)",
        id="a computed weight",
    ),
    block(
        "overridable-initializer",
        f"{C3} {N} y = Add(c, n)",
        x="float[2,3,6,6] x, float[3,3,3,3] w3",
        id="an overridable weight",
    ),
    block(
        "weight-not-constant",
        f"h = DequantizeLinear(q, qs, qz) c = Conv<pads = [1, 1, 1, 1]>(r, h) {N} y = Add(c, n)",
        TENSORS | {"q": np.ones((3, 3, 3, 3), np.int8), "qs": np.array(0.1, np.float32), "qz": np.array(0, np.int8)},
        id="a quantised weight",
    ),
    block(
        "dtype-overflow",
        f"{C3} {N} y = Add(c, n)",
        {name: values.astype(np.float16) for name, values in TENSORS.items()}
        | {"w3": np.full((3, 3, 3, 3), 6e4, np.float16), "g": np.full(3, 3e4, np.float16), "v": np.ones(3, np.float16)},
        x="float16[2,3,6,6] x",
        y="float16[] y",
        id="float16 overflows",
    ),
    block(
        "channel-mismatch",
        f"c = MatMul(r, w) {N} y = Add(c, n)",
        SQUARES,
        x="float[2,3,3] x",
        id="a batch norm on another axis than the product's",
    ),
    block(
        "unlike-sibling",
        f"c = Gemm<transA = 1>(r, w) {N} y = Add(c, n)",
        SQUARES,
        x="float[3,3] x",
        id="a product of the transposed value",
    ),
    block(
        "unlike-sibling",
        f"c = Gemm<alpha = 0.0>(r, w, k) {N} y = Add(c, n)",
        SQUARES,
        x=ROWS,
        id="a product times zero",
    ),
]


@pytest.mark.parametrize(("proto", "slug"), REFUSALS)
def test_kept_and_nothing_changes(proto: ModelProto, slug: str) -> None:
    result = fold(proto)
    assert verdicts(result.plan) == {"n": slug}
    assert result.model == proto


def nine_branches() -> tuple[dict[str, str], str, dict[str, Any]]:
    """MobileOne's: six 3×3, a 1×1, a mean and the identity, each with its batch norm."""
    tensors, lines, into = dict(TENSORS), [], {}
    for number in range(6):
        tensors |= {f"w3{number}": weight(3, 3, 3, 3, seed=20 + number)} | parameters(3, f"{number}", seed=30 + number)
        lines.append(
            f"c{number} = Conv<pads = [1, 1, 1, 1]>(r, w3{number}) n{number} = {bn(f'c{number}', f'{number}')}"
        )
        into[f"n{number}"] = "c0"
    tensors |= parameters(3, "6", seed=36) | parameters(3, "7", seed=37) | parameters(3, "8", seed=38)
    lines.append(f"d = Conv(r, w1) n6 = {bn('d', '6')} {MEAN} n7 = {bn('p', '7')} n8 = {bn('r', '8')}")
    lines.append("y = Sum(n0, n1, n2, n3, n4, n5, n6, n7, n8)")
    return into | {"n6": "c0", "n7": "c0", "n8": "c0"}, " ".join(lines), tensors


NINE = nine_branches()
D1 = f"d = Conv(r, w1) o = {bn('d', '2')}"
CN = f"{C3} cn = {bn('c', '3')}"
FOLDS = [
    block(({"n": "c"}, "Relu Conv"), f"{C3} {N} y = Add(c, n)", id="3×3 and bn"),
    block(({"n": "c"}, "Relu Conv"), f"{N} {C3} y = Add(n, c)", id="bn and 3×3"),
    block(({"n": "c"}, "Relu Conv"), f"{N} c = Conv(r, w1) y = Sum(n, c)", id="1×1 and bn, without a bias"),
    case(({"n": "c"}, "Conv"), f"{C3.replace('r,', 'x,')} n = {bn('x')} y = Add(c, n)", TENSORS, id="an input's sum"),
    block(
        ({"cn": "c", "o": "c", "n": "c"}, "Relu Conv Relu"),
        f"{CN} {D1} {N} a = Add(cn, o) e = Add(a, n) y = Relu(e)",
        id="RepVGG",
    ),
    block(({"cn": "c", "o": "c"}, "Relu Conv"), f"{CN} {D1} y = Add(cn, o)", id="two layers with batch norms"),
    block(({"o": "c"}, "Relu Conv"), f"{C3} {D1} y = Add(c, o)", id="two layers, one with a batch norm"),
    block((NINE[0], "Relu Conv"), NINE[1], NINE[2], id="nine branches"),
    block(
        ({"cn": "c", "o": "c", "n": "c"}, "Relu Conv"),
        f"c = Conv<pads = [1, 1, 1, 1], group = 3>(r, depthwise) cn = {bn('c', '3')} "
        f"d = Conv<group = 3>(r, point) o = {bn('d', '2')} {N} y = Sum(o, n, cn)",
        id="depthwise",
    ),
    block(
        ({"n": "c"}, "Relu Conv"),
        f"c = Conv<pads = [1, 1, 1, 1], group = 2>(r, w) d = Conv<group = 2>(r, u) {N} y = Sum(n, c, d)",
        {"w": weight(4, 2, 3, 3), "u": weight(4, 2, 1, 1), **parameters(4)},
        x="float[2,4,5,5] x",
        id="two groups",
    ),
    block(
        ({"n": "c"}, "Relu Conv"),
        f"c = Conv<pads = [2, 2]>(r, w) {N} y = Add(c, n)",
        {"w": weight(3, 3, 5), **PARAMETERS},
        x="float[2,3,9] x",
        id="1-d",
    ),
    block(
        ({"n": "c"}, "Relu Conv"),
        f"c = Conv<pads = [1, 1, 1, 1, 1, 1]>(r, w) d = Conv(r, u) {N} y = Sum(c, n, d)",
        {"w": weight(3, 3, 3, 3, 3), "u": weight(3, 3, 1, 1, 1), **PARAMETERS},
        x="float[2,3,4,4,4] x",
        id="3-d",
    ),
    block(
        ({"o": "c", "n": "c"}, "Relu Conv"),
        f"c = Conv<pads = [2, 2, 2, 2], dilations = [2, 2]>(r, w3) {D1} {N} y = Sum(c, o, n)",
        id="dilated",
    ),
    block(
        ({"cn": "c", "o": "c"}, "Relu Conv"),
        f"c = Conv<pads = [1, 1, 1, 1], strides = [2, 2]>(r, w3) cn = {bn('c', '3')} "
        f"d = Conv<strides = [2, 2]>(r, w1) o = {bn('d', '2')} y = Add(cn, o)",
        id="stride 2 without the identity",
    ),
    block(
        ({"o": "e", "n": "e"}, "Relu Conv"),
        f"{C3} e = Conv<pads = [2, 2, 2, 2]>(r, w5) {D1} {N} a = Add(c, o) h = Add(e, n) y = Add(a, h)",
        id="5×5, 3×3, 1×1 and bn, sums of sums",
    ),
    block(
        ({"n": "c"}, "Relu Conv"),
        f"{C3} d = Conv<pads = [0, 1, 0, 1]>(r, wide) e = Conv<pads = [1, 0, 1, 0]>(r, tall) {N} y = Sum(d, e, c, n)",
        id="3×3, 1×3, 3×1 and bn",
    ),
    block(
        ({"n": "d"}, "Relu Conv Conv Sum"),
        f"d = Conv<pads = [0, 1, 0, 1]>(r, wide) e = Conv<pads = [1, 0, 1, 0]>(r, tall) {N} y = Sum(n, d, e)",
        id="1×3, 3×1 and bn: neither holds the other",
    ),
    block(
        ({"n": "c"}, "Relu Conv"),
        f"c = Conv<pads = [1, 1, 0, 0]>(r, w2) {N} y = Add(c, n)",
        id="2×2, more zeros before",
    ),
    block(({"n": "c"}, "Relu Conv"), f'c = Conv<auto_pad = "SAME_UPPER">(r, w3) {N} y = Add(c, n)', id="SAME_UPPER"),
    block(
        ({"n": "c"}, "Relu Conv"), f'c = Conv<auto_pad = "SAME_UPPER">(r, w2) {N} y = Add(c, n)', id="SAME_UPPER, 2×2"
    ),
    block(
        ({"n": "c"}, "Relu Conv"), f'c = Conv<auto_pad = "SAME_LOWER">(r, w2) {N} y = Add(c, n)', id="SAME_LOWER, 2×2"
    ),
    block(({"n": "c"}, "Relu Conv"), f'c = Conv<auto_pad = "VALID">(r, w1) {N} y = Add(c, n)', id="VALID, 1×1"),
    block(
        ({"cn": "c"}, "Relu Conv"),
        f'c = Conv<auto_pad = "SAME_UPPER", strides = [2, 2]>(r, w3) cn = {bn("c")} d = Conv<strides = [2, 2]>(r, w1) '
        "y = Add(cn, d)",
        x="float[2,3,7,7] x",
        id="SAME_UPPER at stride 2, an odd size",
    ),
    block(
        ({"cn": "c"}, "Relu Conv Conv Add"),
        f'c = Conv<auto_pad = "SAME_UPPER", strides = [2, 2]>(r, w3) cn = {bn("c")} d = Conv<strides = [2, 2]>(r, w1) '
        "y = Add(cn, d)",
        x="float[2,3,8,8] x",
        id="SAME_UPPER at stride 2, an even size: nothing before",
    ),
    block(({"n": "c"}, "Relu Conv"), f"{C3} {MEAN} n = {bn('p')} y = Add(c, n)", id="a mean with zeros, and bn"),
    block(
        ({"n": "c"}, "Relu Conv"),
        f"c = Conv(r, w3) p = AveragePool<kernel_shape = [3, 3]>(r) n = {bn('p')} y = Add(c, n)",
        id="a mean without padding, and bn",
    ),
    block(
        ({"n": "c"}, "Relu Conv"),
        f"c = Conv<strides = [2, 2]>(r, w2) p = AveragePool<kernel_shape = [2, 2], strides = [2, 2]>(r) n = {bn('p')} "
        "y = Add(c, n)",
        id="a mean at stride 2, and bn",
    ),
    block(({"cn": "c"}, "Relu Conv"), f"{CN} {MEAN} y = Add(cn, p)", id="a mean as it is, where a bn takes part"),
    block(({"cn": "c"}, "Relu Conv"), f"{CN} y = Add(cn, r)", id="the value itself, where a bn takes part"),
    block(({"cn": "c"}, "Relu Conv"), f"{CN} y = Sum(r, cn, r)", id="the value itself, twice"),
    block(
        ({"y": "c"}, "Relu Conv"), f"{C3} a = Add(c, r) y = {bn('a')}", id="a bn behind a layer and the value itself"
    ),
    block(
        ({"n": "c", "y": "c"}, "Relu Conv"), f"{C3} {N} a = Add(c, n) y = {bn('a', '2')}", id="a bn behind, a bn beside"
    ),
    block(
        ({"n": "c"}, "Relu Conv Sigmoid Add"),
        f"{C3} {N} h = Sigmoid(x) a = Add(c, h) y = Add(a, n)",
        id="something else in the sum",
    ),
    block(
        ({"n": "c"}, "Relu Conv Sigmoid Sum"),
        f"{C3} {N} h = Sigmoid(x) y = Sum(c, n, h, x)",
        id="more in a sum of four",
    ),
    block(
        ({"n": "c"}, "Relu Conv Conv Sum"),
        f"c = Conv<pads = [1, 1, 1, 1], group = 3>(r, depthwise) d = Conv(r, w1) {N} y = Sum(d, c, n)",
        id="layers of different groups",
    ),
    block(
        ({"n": "d"}, "Relu Conv Conv Sum Sigmoid Mul"),
        f"{C3} d = Conv(r, w1) {N} a = Sum(c, d, n) h = Sigmoid(c) y = Mul(a, h)",
        id="the larger layer is read elsewhere",
    ),
    block(({"n": "c", "o": "c"}, "Relu Conv"), f"{C3} {N} o = {bn('r', '2')} y = Sum(c, n, o)", id="two bns"),
    block(({"n": "c", "o": "c"}, "Relu Conv"), f"{C3} {N} o = {bn('n', '2')} y = Add(c, o)", id="two bns in a row"),
    block(({"h": "c"}, "Relu Conv"), f"{C3} h = Mul(r, s) n = Add(h, t) y = Add(c, n)", id="a bn that is written out"),
    block(({"n": "c"}, "Relu Conv"), f"{C3} i = Identity(r) n = {bn('i')} y = Add(c, n)", id="behind an identity"),
    block(
        ({"n": "c"}, "Relu Dropout Conv"),
        f"i = Dropout(r) {C3.replace('r,', 'i,')} {N} y = Add(c, n)",
        id="beside a dropout",
    ),
    block(
        ({"n": "c", "o": "d"}, "Relu Conv Relu Conv"),
        f"{C3} {N} a = Add(c, n) e = Relu(a) d = Conv(e, w1) o = {bn('e', '2')} y = Add(o, d)",
        id="two blocks",
    ),
    block(({"n": "c"}, "Relu Conv"), f"{C3} {N} y = Add(c, n)", opset=7, ir_version=3, id="opset 7, IR 3"),
    block(
        ({"n": "c"}, "Relu Conv"), f"{C3} {N} y = Add(c, n)", x="float[N,3,H,W] x", y="float[N,3,P,Q] y", id="any size"
    ),
    block(({"n": "c"}, "Relu Gemm"), f"c = Gemm(r, w, k) {N} y = Add(c, n)", SQUARES, x=ROWS, id="gemm and bn"),
    block(
        ({"n": "c"}, "Relu Gemm"),
        f"c = Gemm<alpha = 0.5, beta = 2.0, transB = 1>(r, w, k) {N} y = Add(c, n)",
        SQUARES,
        x=ROWS,
        id="gemm with attributes and bn",
    ),
    block(({"n": "c"}, "Relu MatMul Add"), f"c = MatMul(r, w) {N} y = Add(c, n)", SQUARES, x=ROWS, id="matmul and bn"),
    block(({"n": "c"}, "Relu Conv"), f"{C3} {N} y = Sub(c, n)", id="subtracted"),
    block(({"n": "c"}, "Relu Conv"), f"{C3} {N} h = Neg(n) y = Add(c, h)", id="negated"),
    block(
        ({"n": "c"}, "Relu Conv Sigmoid Sub"),
        f"{C3} {N} h = Sigmoid(r) a = Add(n, c) y = Sub(a, h)",
        id="in a sum that something is subtracted from",
    ),
    block(
        ({"y": "c"}, "Relu Conv Sub"),
        f"{C3} d = Sub(r, c) y = {bn('d')}",
        id="behind a difference with what nothing can scale",
    ),
    block(
        ({"n": "c"}, "Relu MatMul Add"),
        f"c = MatMul(r, w) d = MatMul(r, u) dl = Add(d, l) {N} a = Add(c, dl) y = Add(n, a)",
        SQUARES,
        x=ROWS,
        id="matmul, matmul with its bias, and bn",
    ),
    block(
        ({"n": "c"}, "Relu Gemm"),
        f"c = Gemm<alpha = 0.5>(r, w) d = MatMul(r, u) dl = Add(d, l) {N} a = Add(c, dl) y = Add(n, a)",
        SQUARES,
        x=ROWS,
        id="gemm, matmul with its bias, and bn",
    ),
    block(
        ({"cn": "c", "dn": "c"}, "Relu Gemm"),
        f"c = Gemm<transA = 1>(r, w, k) cn = {bn('c')} d = Gemm<transA = 1, alpha = 3.0>(r, u) dn = {bn('d', '2')} "
        "y = Add(cn, dn)",
        SQUARES,
        x="float[3,2] x",
        id="gemms of the transposed value",
    ),
    block(
        ({"n": "c"}, "Relu MatMul Add"),
        f"c = MatMul(r, w) {N} y = Add(c, n)",
        SQUARES | {name: np.full(3, value, np.float32) for name, value in (("g", 2), ("b", 1), ("m", 3), ("v", 4))},
        x="float[2,3,3] x",
        id="the same affine for every channel acts on any axis",
    ),
]


@pytest.mark.parametrize(("proto", "expected"), FOLDS)
def test_becomes_one_layer(proto: ModelProto, expected: tuple[dict[str, str], str]) -> None:
    into, operators = expected
    result, _ = folded(proto)
    assert reported(proto) == into
    assert [node.op_type for node in result.graph.node] == operators.split()
    assert_same_network(proto, result)
    for node in proto.graph.node:
        if node.op_type == "BatchNormalization":
            assert_scale_matters(proto, node.input[1])
    read = {name for node in result.graph.node for name in node.input}
    before = {name for node in proto.graph.node for name in node.input}
    assert {item.name for item in result.graph.initializer if item.name in before} <= read
    assert fold(result).model == result
    assert list(result.graph.output) == list(proto.graph.output)


def reported(proto: ModelProto, **options: Any) -> dict[str, str]:
    """By batch norm, the layers that do its work in the end."""
    plan = fold(proto, **options).plan
    return {item.bn.label: ",".join(node.label for node in plan.ends_of(item)) for item in plan.folds}


LEFT = {
    "two layers": f"r = Relu(x) {C3} d = Conv(r, w1) y = Add(c, d)",
    "a layer and the value": f"r = Relu(x) {C3} y = Add(c, r)",
    "a layer and a mean": f"r = Relu(x) {C3} {MEAN} y = Add(c, p)",
}


@pytest.mark.parametrize("body", LEFT.values(), ids=LEFT)
def test_without_a_batch_norm_layers_become_one_only_on_request(body: str, tmp_path: Path) -> None:
    proto = model(body, TENSORS)
    assert fold(proto).model == proto
    result, _ = folded(proto, merge_parallel=True)
    assert [node.op_type for node in result.graph.node] == ["Relu", "Conv"]
    assert_same_network(proto, result)
    source = tmp_path / "model.onnx"
    onnx.save(proto, source)
    report = bnfold.convert(source, merge_parallel=True, verify="random")
    assert (report.found, report.nodes.after) == (0, 2)
    assert report.also_merged == (1 if body is LEFT["two layers"] else 0)
    assert onnx.load(tmp_path / "model.folded.onnx").graph.node == result.graph.node


def test_an_excluded_batch_norm_stays_in_the_sum() -> None:
    proto = model(f"r = Relu(x) {CN} {D1} {N} a = Add(cn, o) y = Add(a, n)", TENSORS)
    result, found = folded(proto, skip="n")
    assert found == {"cn": "c", "o": "d", "n": "excluded-by-user"}
    assert [node.op_type for node in result.graph.node] == ["Relu", "Conv", "BatchNormalization", "Add"]
    assert_same_network(proto, result)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_one_layer_in_another_dtype(dtype: str) -> None:
    numpy_dtype = ml_dtypes.bfloat16 if dtype == "bfloat16" else np.dtype(dtype)
    word = {"float16": "float16", "bfloat16": "bfloat16", "float64": "double"}[dtype]
    tensors = {name: values.astype(numpy_dtype) for name, values in TENSORS.items()}
    body = f"r = Relu(x) {CN} {D1} {N} a = Add(cn, o) y = Add(a, n)"
    proto = model(body, tensors, x=f"{word}[2,3,6,6] x", y=f"{word}[] y", opset=22)
    result, _ = folded(proto)
    assert [node.op_type for node in result.graph.node] == ["Relu", "Conv"]
    assert_same_network(proto, result, {"float16": 2e-2, "bfloat16": 1e-1, "float64": 1e-12}[dtype])


def test_what_nobody_computes_any_more_is_not_declared() -> None:
    proto = onnx.shape_inference.infer_shapes(model(f"r = Relu(x) {CN} {D1} {N} a = Add(cn, o) y = Add(a, n)", TENSORS))
    result, _ = folded(proto)
    assert [item.name for item in result.graph.value_info] == ["r"]


def test_a_sum_in_a_branch_of_the_graph_is_one_layer_there() -> None:
    body = f"""r = Relu(x) yes = Constant<value = bool {{1}}>() y = If(yes) <
        then_branch = then () => (float[2,3,6,6] a) {{ {C3} {N} a = Add(c, n) }},
        else_branch = other () => (float[2,3,6,6] e) {{ e = Identity(r) }}
    >"""
    proto = model(body, TENSORS, y="float[2,3,6,6] y")
    result, found = folded(proto)
    assert found == {"n": "c"}
    (branch,) = (item.g for item in result.graph.node[-1].attribute if item.name == "then_branch")
    assert [node.op_type for node in branch.node] == ["Conv"]
    assert_same_network(proto, result)


def test_a_value_that_is_added_again_and_again_is_in_nobody_s_way() -> None:
    tensors = dict(TENSORS)
    lines = ["r = Relu(x) s0 = Conv(r, w1)"]
    for number in range(1, 71):
        tensors |= parameters(3, f"_{number}", seed=number)
        tensors[f"g_{number}"] = np.sqrt(tensors[f"v_{number}"]) * np.linspace(0.9, 1.1, 3, dtype=np.float32)
        lines.append(f"n{number} = {bn(f's{number - 1}', f'_{number}')} s{number} = Add(n{number}, r)")
    proto = model(" ".join([*lines, "y = Sigmoid(s70)"]), tensors)
    result, found = folded(proto)
    assert set(found.values()) == {"s0"}
    assert [node.op_type for node in result.graph.node] == ["Relu", "Conv", "Sigmoid"]
    assert_same_network(proto, result)
