"""What is known of a model before it runs, and what must not be taken for known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper
from onnx_graphs import BN, assert_same_network, folded, model, parameters, tensor, verdicts, weight

from bnfold import fold

CONV = f"c = Conv(x, w, k) y = BatchNormalization(c, {BN})"
TENSORS = {"w": weight(4, 3, 3, 3), **parameters(4)}
LINEAR = f"c = MatMul(x, k) y = BatchNormalization(c, {BN})"


def chain(body: str, tensors: dict[str, Any], *, id: str, x: str = "float[2,3,6,6] x") -> Any:  # noqa: A002 - pytest's word
    return pytest.param(model(body, tensors, x=x), id=id)


CHAINS = [
    chain(
        "s = Shape<start = 0, end = 1>(w) zero = Constant<value_float = 0.0>() z = CastLike(zero, x) "
        f"k = Expand(z, s) {CONV}",
        TENSORS,
        id="the bias that torch's exporter writes for a conv without one",
    ),
    chain(
        f"s = Shape(x) one = Constant<value_ints = [1]>() n = Gather(s, one) four = Constant<value_ints = [4]>() "
        f"k = ConstantOfShape<value = float[1] {{2.5}}>(four) {CONV}",
        TENSORS,
        id="constant of shape",
    ),
    chain(
        f"k = Transpose<perm = [1, 0]>(t) {LINEAR}",
        {"t": weight(4, 3), **parameters(4)},
        x="float[2,3] x",
        id="transposed",
    ),
    chain(
        f"k = Transpose<perm = [1, 0]>(t) c = MatMul(x, k) y = BatchNormalization(c, {BN})",
        {"t": weight(200, 100), **parameters(200)},
        x="float[2,100] x",
        id="transposed, too large to compute at once",
    ),
    chain(f"k = Cast<to = 1>(d) {CONV}", {"d": weight(4, dtype="float64"), **TENSORS}, id="cast from float64"),
    chain(f"h = Identity(d) k = Identity(h) {CONV}", {"d": weight(4), **TENSORS}, id="identities"),
    chain(f"k = Concat<axis = 0>(d, e) {CONV}", {"d": weight(1), "e": weight(3), **TENSORS}, id="concatenated"),
    chain(
        f"a = Mul(d, e) q = Sqrt(f) k = Div(a, q) {CONV}",
        {"d": weight(4), "e": weight(1, seed=9), "f": np.abs(weight(4)), **TENSORS},
        id="arithmetic",
    ),
]


@pytest.mark.parametrize("proto", CHAINS)
def test_a_computable_tensor_folds_and_leaves_no_helper_node(proto: ModelProto) -> None:
    result, found = folded(proto)
    assert set(found.values()) == {"c"}
    assert_same_network(proto, result)
    helpers = {node.op_type for node in result.graph.node} - {"Conv", "MatMul", "Add"}
    assert helpers <= {"Shape", "Gather", "Constant"}
    if "Gather" not in {node.op_type for node in proto.graph.node}:
        assert not helpers
    assert not {item.name for item in result.graph.initializer} & {"d", "e", "f", "t"}


def test_a_shape_that_depends_on_the_input_is_not_known() -> None:
    body = f"s = Shape<start = 0, end = 1>(x) f = Cast<to = 1>(s) k = Expand(f, four) {CONV}"
    tensors = TENSORS | {"four": np.array([4])}
    proto = model(body, tensors, x="float[N,3,6,6] x")
    assert verdicts(fold(proto).plan) == {"y": "weight-not-constant"}


def test_a_size_that_the_graph_declares_is_known() -> None:
    body = f"s = Shape<start = 1, end = 2>(x) f = Cast<to = 1>(s) k = Expand(f, four) {CONV}"
    proto = model(body, TENSORS | {"four": np.array([4])})
    result, found = folded(proto)
    assert found == {"y": "c"}
    assert_same_network(proto, result)


def test_a_tiny_file_that_asks_for_terabytes_is_not_computed() -> None:
    proto = model(f"k = ConstantOfShape(huge) {CONV}", TENSORS)
    proto.graph.initializer.append(tensor("huge", np.array([1 << 40])))
    assert verdicts(fold(proto).plan) == {"y": "weight-not-constant"}


def test_a_bias_of_a_shape_that_is_no_bias_is_refused() -> None:
    tensors = TENSORS | {"row": np.ones((1, 160), np.float32), "column": np.ones((160, 1), np.float32)}
    proto = model(f"k = Mul(row, column) {CONV}", tensors)
    assert verdicts(fold(proto).plan) == {"y": "channel-mismatch"}


def test_identities_in_a_circle_are_no_constant() -> None:
    proto = model(CONV, TENSORS | {"k": weight(4)})
    del proto.graph.initializer[-1]
    proto.graph.node.append(helper.make_node("Identity", ["k"], ["h"]))
    proto.graph.node.append(helper.make_node("Identity", ["h"], ["k"]))
    assert verdicts(fold(proto).plan) == {"y": "weight-not-constant"}


def test_an_overridable_tensor_is_not_known_behind_an_identity_either() -> None:
    proto = model(f"k = Identity(d) {CONV}", TENSORS | {"d": weight(4)})
    proto.graph.input.append(helper.make_tensor_value_info("d", TensorProto.FLOAT, [4]))
    assert verdicts(fold(proto).plan) == {"y": "overridable-initializer"}
    assert verdicts(fold(proto, freeze=True).plan) == {"y": "c"}


def test_a_chain_that_cannot_be_computed_is_left_to_the_runtime() -> None:
    proto = model(CONV, TENSORS | {"k": weight(4)})
    del proto.graph.initializer[-1]
    proto.graph.initializer.append(tensor("d", weight(4)))
    proto.graph.initializer.append(tensor("bad", np.array([3, 5])))
    proto.graph.node.insert(0, helper.make_node("Reshape", ["d", "bad"], ["k"]))
    assert verdicts(fold(proto).plan) == {"y": "weight-not-constant"}


def test_reading_only_the_type_of_a_value_is_no_reader() -> None:
    body = f"c = Conv(x, w) y = BatchNormalization(c, {BN}) one = Constant<value_float = 1.0>() z = CastLike(one, c) "
    proto = model(body + "s = Shape(c)", TENSORS, y="float[] y, float[] z, int64[] s")
    result, found = folded(proto)
    assert found == {"y": "c"}
    assert_same_network(proto, result)


def test_weight_norm_is_computed_from_constants() -> None:
    body = f"n = ReduceL2<keepdims = 1>(d, axes) q = Div(d, n) w = Mul(q, e) {CONV}"
    tensors = parameters(4) | {"d": weight(4, 3, 3, 3), "e": weight(4, 1, 1, 1), "k": weight(4)}
    proto = model(body, tensors | {"axes": np.array([1, 2, 3])})
    result, found = folded(proto)
    assert found == {"y": "c"}
    assert [node.op_type for node in result.graph.node] == ["Conv"]
    assert_same_network(proto, result)
