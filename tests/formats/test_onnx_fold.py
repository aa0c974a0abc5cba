"""Small ONNX graphs and their verdicts, refusals first; every fold is compared with the original in a runtime."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper
from onnx_graphs import (
    BN,
    assert_left_alone,
    assert_same_network,
    assert_scale_matters,
    bn,
    case,
    folded,
    model,
    parameters,
    tensor,
    verdicts,
    weight,
)

from bnfold import fold
from bnfold.core.reason import Reason

CONV_BN = f"c = Conv(x, w, k) y = BatchNormalization(c, {BN})"
CONV_TENSORS = {"w": weight(4, 3, 3, 3), "k": weight(4), **parameters(4)}
LINEAR_X = "float[2,3] x"


def overridable(names: str) -> ModelProto:
    """Conv and batch norm, with some initializers that are inputs too."""
    proto = model(CONV_BN, CONV_TENSORS)
    for item in proto.graph.initializer:
        if item.name in names.split():
            proto.graph.input.append(helper.make_tensor_value_info(item.name, item.data_type, item.dims))
    return proto


def captured_by_if() -> ModelProto:
    """The conv's output is read by a branch of an If as well."""
    body = f"c = Conv(x, w, k) n = BatchNormalization(c, {BN}) i = Identity(n) y = Add(i, n)"
    proto = model(body, CONV_TENSORS)
    branches = {
        name: helper.make_graph(
            [helper.make_node(op, ["c"], ["r"])], name, [], [helper.make_empty_tensor_value_info("r")]
        )
        for name, op in (("then_branch", "Relu"), ("else_branch", "Neg"))
    }
    proto.graph.initializer.append(numpy_helper.from_array(np.array([1], bool), "flag"))
    proto.graph.node.append(helper.make_node("If", ["flag"], ["z"], **branches))
    proto.graph.output.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, None))
    return proto


def inside_function() -> ModelProto:
    """The batch norm lives in a local function."""
    function = helper.make_function(
        "local",
        "Block",
        ["a", "g", "b", "m", "v"],
        ["r"],
        [helper.make_node("BatchNormalization", ["a", "g", "b", "m", "v"], ["r"], name="y")],
        [helper.make_opsetid("", 20)],
    )
    proto = model("c = Conv(x, w, k) y = Identity(c)", CONV_TENSORS)
    proto.opset_import.append(helper.make_opsetid("local", 1))
    proto.functions.append(function)
    proto.graph.node[1].CopyFrom(helper.make_node("Block", ["c", "g", "b", "m", "v"], ["y"], domain="local"))
    return proto


REFUSALS = [
    case(
        "training-mode",
        f"c = Conv(x, w, k) y, mm, vv = BatchNormalization<training_mode = 1>(c, {BN})",
        CONV_TENSORS,
        id="training mode",
    ),
    case("training-mode", CONV_BN, CONV_TENSORS, opset=6, ir_version=3, id="no is_test at opset 6"),
    case(
        "foreign-axis",
        f"c = Conv(x, w, k) y = BatchNormalization<spatial = 0>(c, {BN})",
        CONV_TENSORS,
        opset=7,
        ir_version=3,
        id="spatial=0",
    ),
    case(
        "statistics-outputs-used",
        f"c = Conv(x, w, k) y, mm, vv, sm, sv = BatchNormalization(c, {BN})",
        CONV_TENSORS,
        opset=9,
        id="five outputs before opset 14",
    ),
    case(
        "parameters-not-constant",
        "c = Conv(x, w, k) h = Relu(g) y = BatchNormalization(c, h, b, m, v)",
        CONV_TENSORS,
        id="γ behind an activation",
    ),
    case("no-linear-layer", f"y = BatchNormalization(x, {BN})", parameters(3), id="nothing above"),
    case(
        "no-linear-layer",
        f"c = Conv(x, w, k) r = Relu(c) y = BatchNormalization(r, {BN})",
        CONV_TENSORS,
        id="relu between",
    ),
    case(
        "no-linear-layer",
        f"c = MatMul(w, x) y = BatchNormalization(c, {BN})",
        {"w": weight(4, 3), **parameters(4)},
        x="float[2,3,4] x",
        id="a matrix on the left",
    ),
    case(
        "no-linear-layer",
        f"c = com.example.Conv(x, w, k) y = BatchNormalization(c, {BN})",
        CONV_TENSORS,
        id="a conv of another domain",
    ),
    case("fan-out", f"c = Conv(x, w, k) n = BatchNormalization(c, {BN}) y = Add(n, c)", CONV_TENSORS, id="read twice"),
    case("model-output", CONV_BN, CONV_TENSORS, y="float[] c, float[] y", id="conv is an output"),
    case(
        "channel-mismatch",
        f"c = MatMul(x, w) y = BatchNormalization(c, {BN})",
        {"w": weight(5, 4), **parameters(4)},
        x="float[2,4,5] x",
        id="matmul on (N, C, L) with as many features as channels",
    ),
    case(
        "weight-not-constant",
        f"h = Relu(w) c = Conv(x, h, k) y = BatchNormalization(c, {BN})",
        CONV_TENSORS,
        id="computed weight",
    ),
    case(
        "weight-not-constant",
        f"h = Relu(k) c = Conv(x, w, h) y = BatchNormalization(c, {BN})",
        CONV_TENSORS,
        id="computed bias",
    ),
    case("dtype-overflow", CONV_BN, CONV_TENSORS | {"w": np.full((4, 3, 3, 3), 3e38, np.float32)}, id="beyond float32"),
    case("non-finite-parameters", CONV_BN, CONV_TENSORS | {"v": np.full(4, -1, np.float32)}, id="negative variance"),
    pytest.param(overridable("w"), "overridable-initializer", id="overridable weight"),
    pytest.param(overridable("k"), "overridable-initializer", id="overridable bias"),
    pytest.param(overridable("v"), "overridable-initializer", id="overridable variance"),
    pytest.param(captured_by_if(), "fan-out", id="captured by an If body"),
    pytest.param(inside_function(), "inside-function", id="in a local function"),
]
assert Reason.INSIDE_FUNCTION.slug == "inside-function"


@pytest.mark.parametrize(("proto", "slug"), REFUSALS)
def test_kept_and_left_alone(proto: ModelProto, slug: str) -> None:
    assert_left_alone(proto, slug)


FOLDS = [
    case("c", CONV_BN, CONV_TENSORS, id="conv with bias"),
    case("c", f"c = Conv(x, w) y = BatchNormalization(c, {BN})", CONV_TENSORS, id="conv without bias"),
    case(
        "c", f'c = Conv(x, w, "") y = BatchNormalization(c, {BN})'.replace(', ""', ""), CONV_TENSORS, id="absent bias"
    ),
    case(
        "c",
        f"c = Conv<group = 3>(x, w, k) y = BatchNormalization(c, {BN})",
        {"w": weight(6, 1, 3, 3), "k": weight(6), **parameters(6)},
        id="depthwise conv",
    ),
    case(
        "c",
        f"c = Conv<pads = [1, 1, 1, 1], strides = [2, 2]>(x, w, k) y = BatchNormalization(c, {BN})",
        CONV_TENSORS,
        id="padded and strided conv",
    ),
    case(
        "c",
        f"c = Conv(x, w, k) y = BatchNormalization(c, {BN})",
        {"w": weight(4, 3, 3), "k": weight(4), **parameters(4)},
        x="float[2,3,8] x",
        id="1-d conv",
    ),
    case(
        "c",
        f"c = Conv(x, w, k) y = BatchNormalization(c, {BN})",
        {"w": weight(4, 3, 2, 2, 2), "k": weight(4), **parameters(4)},
        x="float[2,3,4,4,4] x",
        id="3-d conv",
    ),
    case(
        "c",
        f"c = ConvTranspose(x, w, k) y = BatchNormalization(c, {BN})",
        {"w": weight(3, 4, 3, 3), "k": weight(4), **parameters(4)},
        id="transposed conv",
    ),
    case(
        "c",
        f"c = ConvTranspose<group = 3, strides = [2, 2]>(x, w) y = BatchNormalization(c, {BN})",
        {"w": weight(3, 2, 3, 3), **parameters(6)},
        id="transposed conv in groups",
    ),
    case(
        "c",
        f"c = Gemm(x, w, k) y = BatchNormalization(c, {BN})",
        {"w": weight(3, 4), "k": weight(4), **parameters(4)},
        x=LINEAR_X,
        id="gemm",
    ),
    case(
        "c",
        f"c = Gemm<transB = 1, transA = 1, alpha = 0.5, beta = 2.0>(x, w, k) y = BatchNormalization(c, {BN})",
        {"w": weight(4, 3), "k": weight(4), **parameters(4)},
        x="float[3,2] x",
        id="gemm with all attributes",
    ),
    *(
        case(
            "c",
            f"c = Gemm<beta = 3.0>(x, w, k) y = BatchNormalization(c, {BN})",
            {"w": weight(3, 4), "k": weight(*shape), **parameters(4)},
            x=LINEAR_X,
            id=f"gemm with C of shape {list(shape)}",
        )
        for shape in ((), (1,), (1, 4), (2, 4), (2, 1), (1, 1))
    ),
    case(
        "c",
        f"c = Gemm(x, w) y = BatchNormalization(c, {BN})",
        {"w": weight(3, 4), **parameters(4)},
        x=LINEAR_X,
        id="gemm without C",
    ),
    case(
        "c",
        f"c = MatMul(x, w) y = BatchNormalization(c, {BN})",
        {"w": weight(3, 4), **parameters(4)},
        x=LINEAR_X,
        id="matmul",
    ),
    case(
        "c",
        f"c = MatMul(x, w) a = Add(k, c) y = BatchNormalization(a, {BN})",
        {"w": weight(3, 4), "k": weight(4), **parameters(4)},
        x=LINEAR_X,
        id="matmul and add",
    ),
    case(
        "c",
        f"c = MatMul(x, w) a = Add(c, k) y = BatchNormalization(a, {BN})",
        {"w": weight(3, 4), "k": weight(1, 4), **parameters(4)},
        x="float[N,3] x",
        id="matmul and add of a row",
    ),
    case(
        "c",
        f"c = Conv(x, w, k) i = Identity(c) d = Dropout(i) y = BatchNormalization(d, {BN})",
        CONV_TENSORS,
        id="through identity and dropout",
    ),
    case(
        "c",
        f"c = Conv(x, w, k) ratio = Constant<value = float {{0.5}}>() "
        f"off = Constant<value = bool {{0}}>() d, mask = Dropout(c, ratio, off) y = BatchNormalization(d, {BN})",
        CONV_TENSORS,
        id="through a dropout that is told not to train",
    ),
    case(
        "c",
        f"c = Conv(x, h, k) h = Identity(w) y = BatchNormalization(c, {BN})".replace(
            "c = Conv(x, h, k) h = Identity(w)", "h = Identity(w) c = Conv(x, h, k)"
        ),
        CONV_TENSORS,
        id="a weight behind an identity",
    ),
    case("c", f"c = Conv(x, w, m) y = BatchNormalization(c, {BN})", CONV_TENSORS, id="the bias is the mean"),
    case("c", "c = Conv(x, w, k) y = BatchNormalization(c, v, b, m, v)", CONV_TENSORS, id="γ is the variance"),
    case(
        "c",
        f"c = Conv(x, w, k) y = BatchNormalization<epsilon = 0.8>(c, {BN})",
        CONV_TENSORS,
        id="a large ε",
    ),
    case(
        "c",
        f"c = Conv(x, w, k) y = BatchNormalization<is_test = 1>(c, {BN})",
        CONV_TENSORS,
        opset=6,
        ir_version=3,
        id="opset 6, IR 3",
    ),
    case("c", CONV_BN, CONV_TENSORS, opset=7, ir_version=3, id="opset 7, IR 3"),
    case("c", CONV_BN, CONV_TENSORS, opset=9, ir_version=4, id="opset 9"),
    case("c", CONV_BN, CONV_TENSORS, opset=13, ir_version=7, id="opset 13"),
    case("c", CONV_BN, CONV_TENSORS, opset=22, id="opset 22"),
    case("c", CONV_BN, CONV_TENSORS | {"v": np.zeros(4, np.float32)}, id="variance of zero"),
    case("c", CONV_BN, CONV_TENSORS, x="float[N,3,H,W] x", y="float[N,4,P,Q] y", id="dynamic shapes"),
]


@pytest.mark.parametrize(("proto", "into"), FOLDS)
def test_folded_exactly(proto: ModelProto, into: str) -> None:
    assert_scale_matters(proto, proto.graph.node[-1].input[1])
    result, found = folded(proto)
    assert list(found.values()) == [into]
    assert not [node for node in result.graph.node if node.op_type == "BatchNormalization"]
    assert_same_network(proto, result)
    assert_nothing_unread(result, proto)
    assert [item.SerializeToString() for item in result.graph.output] == [
        item.SerializeToString() for item in proto.graph.output
    ]


def assert_nothing_unread(result: ModelProto, original: ModelProto) -> None:
    """No initializer is left that nobody reads, but for those that nobody read before."""
    assert unread(result) <= unread(original)


def unread(proto: ModelProto) -> set[str]:
    read = {name for node in proto.graph.node for name in node.input} | {item.name for item in proto.graph.output}
    return {item.name for item in proto.graph.initializer} - read


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_other_dtypes_keep_their_type(dtype: str) -> None:
    import ml_dtypes

    numpy_dtype = ml_dtypes.bfloat16 if dtype == "bfloat16" else np.dtype(dtype)
    word = {"float16": "float16", "bfloat16": "bfloat16", "float64": "double"}[dtype]
    tensors = {name: values.astype(numpy_dtype) for name, values in CONV_TENSORS.items()}
    proto = model(CONV_BN, tensors, x=f"{word}[2,3,6,6] x", y=f"{word}[] y", opset=22)
    result, found = folded(proto)
    assert found == {"y": "c"}
    assert {item.data_type for item in result.graph.initializer} == {proto.graph.initializer[0].data_type}
    assert_same_network(proto, result, {"float16": 2e-2, "bfloat16": 5e-2, "float64": 1e-12}[dtype])


def test_float16_data_with_float32_parameters_stays_float16() -> None:
    half = {"w": CONV_TENSORS["w"].astype(np.float16), "k": CONV_TENSORS["k"].astype(np.float16)}
    proto = model(CONV_BN, parameters(4) | half, x="float16[2,3,6,6] x", y="float16[] y")
    result, found = folded(proto)
    assert found == {"y": "c"}
    assert {item.data_type for item in result.graph.initializer} == {TensorProto.FLOAT16}
    assert_same_network(proto, result, 2e-2)


def test_a_weight_that_two_layers_share_is_written_anew_for_each() -> None:
    body = f"c1 = Conv(x, w, k) n1 = BatchNormalization(c1, {BN}) "
    body += "c2 = Conv(x, w, k) n2 = BatchNormalization(c2, g2, b2, m2, v2) "
    proto = model(body + "y = Add(n1, n2)", CONV_TENSORS | parameters(4, "2", seed=5))
    result, found = folded(proto)
    assert found == {"n1": "c1", "n2": "c2"}
    assert_same_network(proto, result)
    assert_nothing_unread(result, proto)


def test_a_weight_that_another_layer_reads_keeps_its_original() -> None:
    body = f"c1 = Conv(x, w, k) n = BatchNormalization(c1, {BN}) c2 = Conv(x, w, k) y = Mul(n, c2)"
    proto = model(body, CONV_TENSORS)
    result, _ = folded(proto)
    assert {"w", "k"} <= {item.name for item in result.graph.initializer}
    assert_same_network(proto, result)


def test_a_weight_that_is_also_an_output_keeps_its_original() -> None:
    proto = model(CONV_BN, CONV_TENSORS, y="float[] y, float[4,3,3,3] w")
    result, found = folded(proto)
    assert found == {"y": "c"}
    assert_same_network(proto, result)


def test_a_chain_of_batch_norms_leaves_one_conv() -> None:
    body = f"c = Conv(x, w, k) n = BatchNormalization(c, {BN}) y = BatchNormalization(n, g2, b2, m2, v2)"
    proto = model(body, CONV_TENSORS | parameters(4, "2", seed=7))
    result, found = folded(proto)
    assert found == {"n": "c", "y": "c"}
    assert [node.op_type for node in result.graph.node] == ["Conv"]
    assert_same_network(proto, result)


@pytest.mark.parametrize("layer", ["before", "behind"])
def test_a_row_of_batch_norms_and_arithmetic_leaves_one_conv(layer: str) -> None:
    links = [bn("{}", "1"), "Mul({}, two)", bn("{}", "2"), bn("{}", "3"), "Sub(two, {})", bn("{}", "4"), bn("{}", "5")]
    row = "".join(f"r{number} = {link.format(f'r{number - 1}')} " for number, link in enumerate(links, start=1))
    body = f"r0 = Conv(x, w, k) {row} y = Relu(r7)" if layer == "before" else f"r0 = Relu(x) {row} y = Conv(r7, w, k)"
    channels = 4 if layer == "before" else 3
    tensors = {"w": weight(4, 3, 3, 3), "k": weight(4), "two": np.full(1, 2, np.float32)}
    for suffix in "12345":
        tensors |= parameters(channels, suffix, seed=int(suffix))
    proto = model(body, tensors)
    result, found = folded(proto)
    assert list(found.values()) == ["r0" if layer == "before" else "y"] * 5
    assert sorted(node.op_type for node in result.graph.node) == ["Conv", "Relu"]
    assert_same_network(proto, result)
    for suffix in "12345":
        assert_scale_matters(proto, f"g{suffix}")


def test_matmuls_get_an_add_each_in_the_right_place() -> None:
    body = f"c = MatMul(x, w) n = BatchNormalization(c, {BN}) d = MatMul(n, u) r = Relu(d) e = MatMul(r, u) "
    body += "y = BatchNormalization(e, g2, b2, m2, v2)"
    tensors = {"w": weight(3, 4), "u": weight(4, 4), **parameters(4), **parameters(4, "2", seed=3)}
    proto = model(body, tensors, x="float[N,3] x")
    result, found = folded(proto)
    assert found == {"n": "c", "y": "e"}
    assert [node.op_type for node in result.graph.node] == ["MatMul", "Add", "MatMul", "Relu", "MatMul", "Add"]
    assert_same_network(proto, result)


def test_inside_a_branch_the_layer_and_its_batch_norm_fold() -> None:
    then_nodes = [
        helper.make_node("Conv", ["x", "w", "k"], ["c"]),
        helper.make_node("BatchNormalization", ["c", "g", "b", "m", "v"], ["r"]),
    ]
    else_nodes = [helper.make_node("Conv", ["x", "w", "k"], ["r"])]
    branches = {
        name: helper.make_graph(nodes, name, [], [helper.make_tensor_value_info("r", TensorProto.FLOAT, None)])
        for name, nodes in (("then_branch", then_nodes), ("else_branch", else_nodes))
    }
    proto = model("y = Identity(x)", CONV_TENSORS)
    proto.graph.initializer.append(numpy_helper.from_array(np.array([1], bool), "flag"))
    proto.graph.node[0].CopyFrom(helper.make_node("If", ["flag"], ["y"], **branches))
    proto.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 4, 4, 4]))
    result, found = folded(proto)
    assert found == {"r": "c"}
    assert_same_network(proto, result)
    assert {"w", "k"} <= {item.name for item in result.graph.initializer}  # the other branch reads them


def test_new_names_are_unused_so_far() -> None:
    tensors = CONV_TENSORS | {"w_folded": weight(4), "k_folded": weight(4)}
    proto = model(
        f"{CONV_BN.replace('y =', 'n =')} s = Add(w_folded, k_folded) t = Unsqueeze(s, axes) r = Relu(n) y = Mul(r, t)",
        tensors,
    )
    proto.graph.initializer.append(tensor("axes", np.array([1, 2])))
    result, _ = folded(proto)
    assert {"w_folded", "k_folded", "w_folded_2", "k_folded_2"} <= {item.name for item in result.graph.initializer}
    assert_same_network(proto, result)


def test_everything_else_that_the_graph_says_stays() -> None:
    proto = model(CONV_BN, CONV_TENSORS)
    proto.producer_name, proto.doc_string, proto.model_version = "somebody", "words", 7
    proto.graph.doc_string = "more words"
    proto.metadata_props.add(key="a", value="b")
    proto.graph.node[0].doc_string = "a convolution"
    for name, shape in (("c", [2, 4, 4, 4]), ("w", [4, 3, 3, 3])):
        proto.graph.value_info.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
    result, _ = folded(proto)
    for field in ("producer_name", "doc_string", "model_version", "ir_version", "opset_import", "metadata_props"):
        assert getattr(result, field) == getattr(proto, field)
    assert result.graph.doc_string == "more words"
    assert result.graph.input == proto.graph.input
    assert result.graph.node[0].doc_string == "a convolution"
    assert not result.graph.value_info  # both values are gone


def test_frozen_initializers_fold_and_are_no_inputs_any_more() -> None:
    proto = overridable("w v")
    result = fold(proto, freeze=True)
    assert verdicts(result.plan) == {"y": "c"}
    assert [item.name for item in result.model.graph.input] == ["x"]


def test_ir_3_initializers_stay_inputs() -> None:
    proto = model(CONV_BN, CONV_TENSORS, opset=8, ir_version=3)
    result, _ = folded(proto)
    inputs = {item.name for item in result.graph.input}
    assert inputs == {"x"} | {item.name for item in result.graph.initializer}


def test_nodes_out_of_order_are_followed_all_the_same() -> None:
    proto = model(CONV_BN, CONV_TENSORS)
    nodes = [helper.make_node("Relu", ["n"], ["y"])]
    nodes += [helper.make_node("BatchNormalization", ["c", "g", "b", "m", "v"], ["n"]), proto.graph.node[0]]
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
    result = fold(proto)
    assert verdicts(result.plan) == {"n": "c"}
    assert [node.op_type for node in result.model.graph.node] == ["Relu", "Conv"]


def test_names_lie_and_the_graph_decides() -> None:
    body = f"conv1 = Conv(x, w, k) r = Relu(conv1) conv1_BN = BatchNormalization(r, {BN}) y = Relu(conv1_BN)"
    assert verdicts(fold(model(body, CONV_TENSORS)).plan) == {"conv1_BN": "no-linear-layer"}


def test_folded_values_are_the_float64_fold_rounded_once() -> None:
    result, _ = folded(model(CONV_BN, CONV_TENSORS))
    stored = {item.name: numpy_helper.to_array(item) for item in result.graph.initializer}
    wide = {name: values.astype(np.float64) for name, values in CONV_TENSORS.items()}
    scale = wide["g"] / np.sqrt(wide["v"] + np.float64(np.float32(1e-5)))
    assert np.array_equal(stored["w_folded"], (wide["w"] * scale[:, None, None, None]).astype(np.float32))
    expected = (wide["k"] * scale + (wide["b"] - wide["m"] * scale)).astype(np.float32)
    assert np.array_equal(stored["k_folded"], expected)


def test_a_corrupt_tensor_is_named() -> None:
    from bnfold.errors import InputError

    proto = model(CONV_BN, CONV_TENSORS)
    next(item for item in proto.graph.initializer if item.name == "w").raw_data = b"1234"
    with pytest.raises(InputError, match="'w' is corrupt"):
        fold(proto)


def test_sparse_weights_are_kept() -> None:
    proto = model("c = MatMul(x, w) y = BatchNormalization(c, g, b, m, v)", parameters(4), x=LINEAR_X)
    values = tensor("w", np.array([1.0, 2.0], np.float32))
    indices = tensor("i", np.array([0, 5]))
    proto.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [3, 4]))
    assert verdicts(fold(proto).plan) == {"y": "weight-not-constant"}


def test_onnx_is_of_the_version_that_the_table_knows() -> None:
    assert onnx.defs.onnx_opset_version() >= 22
