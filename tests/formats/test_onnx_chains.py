"""Chains of batch norms with pools, sums or joins between them: folded in one go, and still the same network."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import ModelProto
from onnx_graphs import (
    assert_same_network,
    assert_scale_matters,
    bn,
    folded,
    model,
    parameters,
    read_by,
    verdicts,
    weight,
)

from bnfold import fold
from bnfold.core.verdict import Fold

TENSORS: dict[str, Any] = {
    "w": weight(4, 3, 3, 3),
    "u": weight(4, 3, 3, 3, seed=5),
    "k": weight(4),
    "two": weight(2, 3, 3, 3),
    "point": weight(4, 4, 1, 1),
    "halves": np.array([2, 2]),
    "half": np.array(0.5, np.float32),
    "eight": weight(4, 8, 1, 1),
    **{name: value for number in range(1, 6) for name, value in parameters(4, f"{number}", seed=number).items()},
    **{name: value for number in (6, 7) for name, value in parameters(2, f"{number}", seed=number).items()},
    **parameters(8, "8"),
}
POOL = "AveragePool<kernel_shape = [2, 2]>"
C = "c = Conv(x, w, k)"


CHAINS = {
    "pools behind a layer": (
        f"{C} n1 = {bn('c', '1')} p1 = {POOL}(n1) n2 = {bn('p1', '2')} p2 = {POOL}(n2) y = {bn('p2', '3')}",
        {"n1": {"c"}, "n2": {"c"}, "y": {"c"}},
    ),
    "transposes behind a layer": (
        f"{C} n1 = {bn('c', '1')} t = Transpose<perm = [0, 1, 3, 2]>(n1) n2 = {bn('t', '2')} i = Identity(n2) "
        f"y = {bn('i', '3')}",
        {"n1": {"c"}, "n2": {"c"}, "y": {"c"}},
    ),
    "pools before a layer": (
        f"r = Relu(z) n1 = {bn('r', '1')} p1 = {POOL}(n1) n2 = {bn('p1', '2')} p2 = {POOL}(n2) n3 = {bn('p2', '3')} "
        "y = Conv(n3, point)",
        {"n1": {"y"}, "n2": {"y"}, "n3": {"y"}},
    ),
    "sums behind layers": (
        f"r = Relu(x) {C} n1 = {bn('c', '1')} d = Conv(r, u) a = Add(n1, d) n2 = {bn('a', '2')} e = Conv(x, u) "
        f"s = Sub(e, n2) y = {bn('s', '3')}",
        {"n1": {"c"}, "n2": {"c", "d"}, "y": {"c", "d", "e"}},
    ),
    "a sum of two, and a mean with a third": (
        f"r = Relu(x) {C} n1 = {bn('c', '1')} d = Conv(r, u) n2 = {bn('d', '2')} a = Add(n1, n2) n3 = {bn('a', '3')} "
        f"e = Conv(x, u) q = Mean(n3, e) y = {bn('q', '4')}",
        {"n1": {"c"}, "n2": {"d"}, "n3": {"c", "d"}, "y": {"c", "d", "e"}},
    ),
    "both halves of what is normalised before": (
        f"{C} n1 = {bn('c', '1')} a, b = Split<axis = 1>(n1, halves) n6 = {bn('a', '6')} n7 = {bn('b', '7')} "
        "y = Mul(n6, n7)",
        {"n1": {"c"}, "n6": {"c"}, "n7": {"c"}},
    ),
    "two that are joined before a third": (
        f"r = Relu(z) h = Sigmoid(z) n1 = {bn('r', '1')} n2 = {bn('h', '2')} j = Concat<axis = 1>(n1, n2) "
        f"n8 = {bn('j', '8')} y = Conv(n8, eight)",
        {"n1": {"y"}, "n2": {"y"}, "n8": {"y"}},
    ),
    "arithmetic between": (
        f"{C} n1 = {bn('c', '1')} p1 = {POOL}(n1) h = Mul(p1, half) p2 = {POOL}(h) n2 = {bn('p2', '2')} i = Neg(n2) "
        f"y = {bn('i', '3')}",
        {"n1": {"c"}, "n2": {"c"}, "y": {"c"}},
    ),
    "one that stays in the middle": (
        f"{C} n1 = {bn('c', '1')} p1 = {POOL}(n1) n2 = {bn('p1', '2')} r = Relu(n2) n3 = {bn('r', '3')} "
        f"p2 = {POOL}(n3) n4 = {bn('p2', '4')} q = Conv(n4, point) y = {bn('q', '5')}",
        {"n1": {"c"}, "n2": {"c"}, "n3": {"q"}, "n4": {"q"}, "y": {"q"}},
    ),
}


@pytest.mark.parametrize("name", CHAINS)
def test_a_chain_is_the_same_network(name: str) -> None:
    body, expected = CHAINS[name]
    x = "float[2,3,8,8] x" if "(x" in body else "float[2,4,8,8] z"
    proto: ModelProto = model(body, read_by(body, TENSORS), x=x)
    for node in proto.graph.node:
        if node.op_type == "BatchNormalization":
            assert_scale_matters(proto, node.input[1])
    result, _ = folded(proto)
    plan = fold(proto).plan
    ends = {
        verdict.bn.label: {node.label for node in plan.ends_of(verdict)} if isinstance(verdict, Fold) else verdict
        for verdict in plan
    }
    assert ends == expected
    assert not [node for node in result.graph.node if node.op_type == "BatchNormalization"]
    assert_same_network(proto, result, 3e-5)


def test_a_chain_whose_product_leaves_float16_folds_as_far_as_it_fits() -> None:
    small: dict[str, Any] = {"w": np.full((4, 3, 1, 1), 100, np.float16)}
    for number in (1, 2):
        small |= {
            f"{name}{number}": np.full(4, value, np.float16)
            for name, value in {"g": 100, "b": 1, "m": 1, "v": 1}.items()
        }
    body = f"c = Conv(x, w) n1 = {bn('c', '1')} p = {POOL}(n1) y = {bn('p', '2')}"
    proto = model(body, small, x="float16[2,3,4,4] x", y="float16[] y")
    assert verdicts(fold(proto).plan) == {"n1": "c", "y": "dtype-overflow"}
