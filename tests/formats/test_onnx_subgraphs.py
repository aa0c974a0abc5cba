"""Bodies of If, Loop and Scan: each graph is folded by itself, and the names around it are seen and respected."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, helper
from onnx_graphs import (
    Arrays,
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

CONV = {"w": weight(3, 3, 3, 3), "k": weight(3), **parameters(3), "flag": np.array(1, bool)}
LOOP = CONV | {"twice": np.array(2), "more": np.array(1, bool)}
PADDED = "Conv<pads = [1, 1, 1, 1]>"


def branches(then: str, otherwise: str) -> str:
    return f"If(flag) <then_branch = t () => (p) {{ {then} }}, else_branch = e () => (q) {{ {otherwise} }}>"


def loop(body: str) -> str:
    """Two rounds over ``state``, starting from x; ``body`` makes ``next`` of it."""
    head = "l (int64 i, bool go, float[2,3,6,6] state) => (on, next)"
    return f"Loop(twice, more, x) <body = {head} {{ on = Identity(go) {body} }}>"


def scan(body: str) -> str:
    """Over the first axis of x; ``body`` makes ``next`` of ``state``."""
    head = "s (float[1,3,6,6] state, float[3,6,6] item) => (next, made)"
    return f"Scan(start, x) <num_scan_inputs = 1, body = {head} {{ made = Identity(item) {body} }}>"


C_NORM = bn("c")
KEPT = [
    case(
        "fan-out",
        f"c = {PADDED}(x, w, k) n = {bn('c')} r = {branches('p = Relu(c)', 'q = Neg(n)')} y = Add(r, n)",
        CONV,
        id="a branch reads the layer's output",
    ),
    case(
        "fan-out",
        f"c = {PADDED}(x, w, k) n = {bn('c')} r = "
        + branches(
            "a = Neg(x) p = Add(a, n)",
            "flag2 = Not(flag) q = If(flag2) <then_branch = u () => (h) { h = Neg(c) },"
            " else_branch = v () => (j) { j = Relu(n) }>",
        )
        + " y = Add(r, n)",
        CONV,
        id="a branch in a branch reads the layer's output",
    ),
    case(
        "no-linear-layer",
        f"c = {PADDED}(x, w, k) y = {branches(f'p = {C_NORM}', 'q = Relu(x)')}",
        CONV,
        id="the layer is outside the branch",
    ),
    case(
        "no-linear-layer",
        f"r = Relu(x) n = {bn('r')} y = {branches(f'p = {PADDED}(n, w, k)', 'q = Neg(n)')}",
        CONV,
        id="the layer below is inside a branch",
    ),
    case(
        "fan-out",
        f"y, z = Loop(twice, more, x) <body = l (int64 i, bool go, float[2,3,6,6] state) => (on, next, made) "
        f"{{ on = Identity(go) made = Neg(state) c = {PADDED}(state, w, k) n = {bn('c')} next = Add(n, c) }}>",
        LOOP,
        y="float[] y, float[] z",
        id="inside a loop the layer's output is read twice",
    ),
    case(
        "model-output",
        f"y, z = Loop(twice, more, x) <body = l (int64 i, bool go, float[2,3,6,6] state) => (on, next, c) "
        f"{{ on = Identity(go) c = {PADDED}(state, w, k) n = {bn('c')} next = Relu(n) }}>",
        LOOP,
        y="float[] y, float[] z",
        id="a loop gives the layer's output of each round",
    ),
    case(
        "parameters-not-constant",
        f"state, y = Loop(twice, more, g) <body = l (int64 i, bool go, float[3] s) => (on, next, made) "
        f"{{ on = Identity(go) next = Neg(s) c = {PADDED}(x, w, k) made = BatchNormalization(c, s, b, m, v) }}>",
        LOOP,
        id="γ changes from round to round",
    ),
    case(
        "weight-not-constant",
        f"state, y = Loop(twice, more, w) <body = l (int64 i, bool go, float[3,3,3,3] s) => (on, next, made) "
        f"{{ on = Identity(go) next = Neg(s) c = {PADDED}(x, s, k) made = {bn('c')} }}>",
        LOOP,
        id="the weight changes from round to round",
    ),
]


@pytest.mark.parametrize(("proto", "slug"), KEPT)
def test_kept_and_left_alone(proto: ModelProto, slug: str) -> None:
    assert_left_alone(proto, slug)


BLOCK = f"c = {PADDED}(%s, w, k) n = {bn('c')} %s = Relu(n)"
OTHER_BLOCK = f"c2 = {PADDED}(x, w) n2 = {bn('c2', '2')} q = Relu(n2)"
FOLDS = [
    case({"n": "c"}, f"y = {branches(BLOCK % ('x', 'p'), 'q = Relu(x)')}", CONV, id="in a branch"),
    case(
        {"n": "c", "n2": "c2"},
        f"y = {branches(BLOCK % ('x', 'p'), OTHER_BLOCK)}",
        CONV | parameters(3, "2", seed=5),
        id="in both branches, with one weight",
    ),
    case({"n": "c"}, f"y = {loop(BLOCK % ('state', 'next'))}", LOOP, id="in a loop"),
    case(
        {"n": "c"},
        f"f, y = {scan(BLOCK % ('state', 'next'))}",
        CONV | {"start": weight(1, 3, 6, 6)},
        y="float[] f, float[] y",
        id="in a scan",
    ),
    case(
        {"n": "c", "n2": "c2"},
        f"c2 = {PADDED}(x, w, k) n2 = {bn('c2', '2')} r = Relu(n2) z = Add(r, n2) y = "
        + branches(f"c = {PADDED}(z, w, k) n = {bn('c')} p = Add(n, r)", "q = Neg(z)"),
        CONV | parameters(3, "2", seed=5),
        id="outside, and inside on a value from outside",
    ),
    case(
        {"n": "c"},
        "y = " + loop(f"next = {branches(BLOCK % ('state', 'p'), 'q = Neg(state)')}"),
        LOOP,
        id="in a branch in a loop",
    ),
]


@pytest.mark.parametrize(("proto", "into"), FOLDS)
def test_folded_exactly(proto: ModelProto, into: dict[str, str]) -> None:
    assert_scale_matters(proto, "g")
    result, found = folded(proto)
    assert found == into
    assert_same_network(proto, result)
    assert not list(batch_norms(result.graph))
    assert result.graph.output == proto.graph.output
    assert fold(result).model == result


def batch_norms(graph: Any) -> Any:
    for node in graph.node:
        if node.op_type == "BatchNormalization":
            yield node
        for attribute in node.attribute:
            yield from batch_norms(attribute.g)


def test_two_graphs_may_use_one_name_for_two_values() -> None:
    body = f"c0 = {PADDED}(x, w, k) n0 = {bn('c0')} h = Relu(n0) y = {branches(BLOCK % ('h', 'p'), BLOCK % ('x', 'q'))}"
    proto = model(body, CONV)
    result, found = folded(proto)
    assert found == {"n0": "c0", "n": "c"}
    assert len(list(batch_norms(result.graph))) == 0
    assert_same_network(proto, result)


@pytest.mark.parametrize("name", ["1", "1:c", "2:c", ":c", "01:"])
def test_a_name_may_look_like_an_id(name: str) -> None:
    """Numeric names, and such as ids of values in inner graphs are made of."""
    body = f"outer = {PADDED}(x, w, k) h = Relu(outer) y = {branches(BLOCK % ('h', 'p'), 'q = Neg(outer)')}"
    proto = model(body, CONV)
    for node in proto.graph.node:
        for names in (node.input, node.output):
            for slot, known in enumerate(names):
                names[slot] = name if known == "outer" else known
        for attribute in node.attribute:
            for inner in attribute.g.node:
                inner.input[:] = [name if known == "outer" else known for known in inner.input]
    result, found = folded(proto)
    assert found == {"n": "c"}
    assert_same_network(proto, result)


NUMERIC: Arrays = {str(number): values for number, values in enumerate(CONV.values(), start=10)}


def test_numeric_names_are_names() -> None:
    nodes = [
        helper.make_node("Conv", ["0", "10", "11"], ["1"]),
        helper.make_node("BatchNormalization", ["1", "12", "13", "14", "15"], ["2"]),
    ]
    proto = model("y = Relu(x)", NUMERIC)
    proto.graph.input[0].name, proto.graph.output[0].name = "0", "2"
    proto.graph.output[0].type.tensor_type.shape.dim[2].dim_value = 4
    proto.graph.output[0].type.tensor_type.shape.dim[3].dim_value = 4
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
    result, found = folded(proto)
    assert found == {"2": "1"}
    assert_same_network(proto, result)
