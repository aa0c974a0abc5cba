"""Means on the way of an affine: of branches, of windows, of positions, of channels; refusals first."""

from __future__ import annotations

from typing import Any

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
    parameters,
    read_by,
    weight,
)

TENSORS = {
    "w": weight(3, 3, 3, 3),
    "u": weight(3, 3, 1, 1, seed=5),
    "k": weight(3),
    "five": np.array(5, np.float32),
    "channels": np.array([1]),
    "positions": np.array([2, 3]),
    "first": np.array([0]),
    **parameters(3),
}
ONE = {"w": weight(3, 3, 3, 3), "k": weight(3), "channels": np.array([1]), **parameters(1)}
UNIFORM = {name: np.full(3, values[0], np.float32) for name, values in parameters(1).items()}
BEFORE_ONE = {"w": weight(2, 1, 3, 3), "channels": np.array([1])}
C = "c = Conv<pads = [1, 1, 1, 1]>(x, w, k)"
D = "d = Conv(x, u)"
WINDOW = "kernel_shape = [2, 2]"


def row(verdict: Any, body: str, tensors: dict[str, Any] | None = None, **options: Any) -> Any:
    """A case with those of the tensors that it reads."""
    known = TENSORS if tensors is None else tensors
    return case(verdict, body, read_by(body, known), **options)


REFUSALS = [
    row("no-linear-layer", f"{C} h = Relu(x) e = Mean(c, h) y = {bn('e')}", id="an addend of a mean without a layer"),
    row("no-linear-layer", f"{C} e = Mean(c, five) y = {bn('e')}", id="a mean with a constant"),
    row("fan-out", f"{C} e = Mean(c, c) y = {bn('e')}", id="a mean of a value and itself"),
    row(
        "channel-mismatch",
        f"{C} d = Conv(x, u) e = Mean(c, d) y = {bn('e')}",
        TENSORS | {"u": weight(1, 3, 1, 1)},
        id="a mean that broadcasts the channels of one",
    ),
    row("no-linear-layer", f"{C} n = {bn('x')} y = Mean(c, n)", id="a mean of a layer and a batch norm"),
    row("no-linear-layer", f"n = {bn('x')} h = Relu(x) e = Mean(n, h) y = Conv(e, u)", id="a mean below with another"),
    row(
        "layout-moves-channels",
        f"n = {bn('x')} e = ReduceMean(n, channels) y = Conv(e, w)",
        BEFORE_ONE | parameters(3),
        id="a mean over channels of different scales",
    ),
    row(
        "layout-moves-channels",
        f"n = {bn('x')} e = ReduceMean<keepdims = 0>(n, channels) y = Conv(e, w)",
        {"w": weight(2, 6, 3), "channels": np.array([1]), **UNIFORM},
        id="a mean over channels whose axis goes",
    ),
    row(
        "no-linear-layer",
        f"{C} e = ReduceMax(c, channels) y = {bn('e')}",
        ONE | {"g": np.array([-1], np.float32)},
        id="a maximum over channels, and a negative scale",
    ),
    row(
        "padded-input",
        f"c = Conv(x, w) n = {bn('x')} p = AveragePool<kernel_shape = [5, 5], pads = [1, 1, 1, 1], "
        "count_include_pad = 1>(n) y = Add(c, p)",
        id="a mean that counts its padding, between a batch norm and its sum",
    ),
    row(
        "no-linear-layer",
        f"c = Conv(x, w) n = {bn('x')} p = AveragePool<{WINDOW}>(n) q = AveragePool<{WINDOW}>(p) y = Add(c, q)",
        id="two means between a batch norm and its sum",
    ),
    row(
        "unlike-sibling",
        f"c = Conv(x, w) n = {bn('x')} p = AveragePool<{WINDOW}, strides = [2, 2]>(n) y = Add(c, p)",
        x="float[2,3,3,3] x",
        id="a mean that moves otherwise, between a batch norm and its sum",
    ),
    row(
        "no-linear-layer",
        f"{C} n = {bn('x')} i = Identity(n) s = Sigmoid(i) y = Add(c, s)",
        id="an activation between a batch norm and its sum",
    ),
    row(
        "fan-out",
        f"{C} n = {bn('x')} i = Identity(n) a = Add(c, i) s = Sigmoid(i) y = Mul(a, s)",
        id="a copy of a batch norm that is read elsewhere",
    ),
    row("no-linear-layer", f"{C} h = Relu(x) a = Add(c, h) p = GlobalAveragePool(a) y = {bn('p')}", id="another value"),
]


@pytest.mark.parametrize(("proto", "slug"), REFUSALS)
def test_kept_and_left_alone(proto: ModelProto, slug: str) -> None:
    assert_left_alone(proto, slug)


FOLDS = [
    row(("c,d", "Conv Conv Mean"), f"{C} {D} e = Mean(c, d) y = {bn('e')}", id="a mean of two layers"),
    row(
        ("c,d,e", "Conv Conv Conv Mean Relu"),
        f"{C} {D} e = Conv(x, u, k) f = Mean(c, d, e) n = {bn('f')} y = Relu(n)",
        id="a mean of three layers",
    ),
    row(("c", "Conv Mean"), f"{C} e = Mean(c) y = {bn('e')}", id="a mean of one layer"),
    row(("c,d", "Conv Conv Mean"), f"{C} {D} e = Mean(c, d) y = {bn('e')}", opset=8, id="a mean at opset 8"),
    row(("c,d", "Conv Conv Mean"), f"{C} {D} e = Mean(c, d) y = {bn('e')}", opset=7, id="a mean at opset 7"),
    row(
        ("c,d,e", "Conv Conv Mean Neg"),
        f"{C} {D} e = Conv(x, u, k) a = Sum(c, d) f = Mean(e, a) g2 = Neg(f) y = {bn('g2')}",
        id="a sum in a mean, and a negation",
    ),
    row(
        ("c,d", "Conv Conv GlobalAveragePool Mean"),
        f"{C} {D} p = GlobalAveragePool(d) e = Mean(c, p) y = {bn('e')}",
        id="a mean that broadcasts positions",
    ),
    row(("y", "Mean Conv"), f"n = {bn('x')} e = Mean(n, n) y = Conv(e, u)", id="a mean of a batch norm with itself"),
    row(
        ("c", "Conv ReduceMean"),
        f"{C} e = ReduceMean<noop_with_empty_axes = 1>(c) y = {bn('e')}",
        id="a mean over no axis",
    ),
    row(("c", "Conv ReduceMean"), f"{C} e = ReduceMean(c, channels) y = {bn('e')}", ONE, id="a mean over channels"),
    row(("c", "Conv ReduceSum"), f"{C} e = ReduceSum(c, channels) y = {bn('e')}", ONE, id="a sum over channels"),
    row(
        ("c", "Conv ReduceMax"),
        f"{C} e = ReduceMax(c, channels) y = {bn('e')}",
        ONE | {"g": np.array([2], np.float32)},
        id="a maximum over channels",
    ),
    row(
        ("y", "ReduceMean Conv"),
        f"n = {bn('x')} e = ReduceMean(n, channels) y = Conv(e, w)",
        BEFORE_ONE | UNIFORM,
        id="a mean over channels with one scale, above a layer",
    ),
    row(
        ("y", "ReduceSum Conv"),
        f"n = {bn('x')} e = ReduceSum(n, channels) y = Conv(e, w)",
        BEFORE_ONE | UNIFORM,
        id="a sum over channels with one scale, above a layer",
    ),
    row(
        ("c", "Conv Transpose AveragePool"),
        f"{C} t = Transpose<perm = [0, 2, 1, 3]>(c) p = AveragePool<{WINDOW}>(t) y = {bn('p')}",
        {"w": weight(3, 3, 3, 3), "k": weight(3)} | {k: np.full(6, v[0], np.float32) for k, v in parameters(1).items()},
        id="one scale for all rows, behind a window over the channels",
    ),
    # sums of a layer and the value that it reads
    row(
        ("c", "Conv GlobalAveragePool"),
        f"{C} a = Add(c, x) p = GlobalAveragePool(a) y = {bn('p')}",
        id="the mean of all positions of a sum",
    ),
    row(
        ("c", "Conv ReduceMean"),
        f"{C} a = Add(c, x) p = ReduceMean<keepdims = 0>(a, positions) y = {bn('p')}",
        id="the mean over the positions of a sum",
    ),
    row(
        ("c", "Conv AveragePool Flatten"),
        f"{C} a = Add(c, x) p = AveragePool<kernel_shape = [6, 6]>(a) f = Flatten(p) y = {bn('f')}",
        id="a mean and a flatten behind a sum",
    ),
    row(
        ("c", "Conv AveragePool"),
        "q = AveragePool<kernel_shape = [3, 3], pads = [1, 1, 1, 1], count_include_pad = 1>(x) "
        f"{C} a = Add(c, q) p = AveragePool<{WINDOW}>(a) y = {bn('p')}",
        id="a mean in a sum, and one behind it",
    ),
    row(("c", "Conv"), f"{C} n = {bn('x')} i = Identity(n) y = Add(c, i)", id="a copy of a batch norm in a sum"),
    row(("c", "Conv Identity"), f"{C} i = Identity(c) n = {bn('x')} y = Add(i, n)", id="a copy of a layer in a sum"),
    row(
        ("d", "Conv Dropout"),
        f"{C} {D} o = {bn('d')} e = Identity(o) h = Dropout(c) y = Add(h, e)",
        id="copies of two layers in a sum",
    ),
    row(
        ("c", "Conv"),
        f"c = Conv(x, w) n = {bn('x')} p = AveragePool<kernel_shape = [3, 3]>(n) i = Identity(p) y = Add(c, i)",
        id="a mean between a batch norm and its sum",
    ),
    row(
        ("c", "Relu AveragePool Conv"),
        f"r = Relu(x) q = AveragePool<{WINDOW}>(r) c = Conv(q, w) n = {bn('q')} "
        "p = AveragePool<kernel_shape = [3, 3]>(n) y = Add(c, p)",
        id="a mean before a batch norm, which the layer reads, and one behind it",
    ),
    row(
        ("c", "Conv"),
        f"{C} n = {bn('x')} p = AveragePool<kernel_shape = [3, 3], pads = [1, 1, 1, 1], count_include_pad = 1>(n) "
        "y = Add(c, p)",
        TENSORS | {"b": np.zeros(3, np.float32), "m": np.zeros(3, np.float32)},
        id="a mean that counts its padding, behind a scale alone",
    ),
]


@pytest.mark.parametrize(("proto", "expected"), FOLDS)
def test_folded_exactly(proto: ModelProto, expected: tuple[str, str]) -> None:
    into, operators = expected
    (norm,) = [node for node in proto.graph.node if node.op_type == "BatchNormalization"]
    assert_scale_matters(proto, norm.input[1])
    result, found = folded(proto)
    assert [set(layers.split(",")) for layers in found.values()] == [set(into.split(","))]
    assert [node.op_type for node in result.graph.node] == operators.split()
    assert_same_network(proto, result)
    assert result.graph.output == proto.graph.output
