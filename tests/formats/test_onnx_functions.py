"""Local functions: folded inside where their constants are their own, or come from their only call; kept otherwise."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, defs, helper, parser
from onnx_graphs import (
    Arrays,
    assert_same_network,
    assert_scale_matters,
    bn,
    folded,
    model,
    parameters,
    tensor,
    verdicts,
    weight,
)

from bnfold import fold
from bnfold.runtime import onnx_reference

TENSORS = {"w": weight(4, 3, 3, 3), "k": weight(4), **parameters(4)}
BLOCK = f"Block (a, w, k, g, b, m, v) => (r) {{ c = Conv(a, w, k) n = {bn('c')} r = Relu(n) }}"
CALL = "z = local.Block(x, w, k, g, b, m, v) y = Neg(z)"


def with_functions(body: str, tensors: Arrays, *functions: str, opset: int = 20, **options: Any) -> ModelProto:
    """A model that calls functions of the domain ``local``, given as text."""
    proto = model(body.replace("local.", "com.example."), tensors, **options)
    for node in proto.graph.node:
        node.domain = "local" if node.domain == "com.example" else node.domain
    del proto.opset_import[:]
    proto.opset_import.extend([helper.make_opsetid("", 20), helper.make_opsetid("local", 1)])
    for text in functions:
        header = f'<domain: "local", opset_import: ["" : {opset}, "local" : 1]> '
        proto.functions.append(parser.parse_function(header + text))
    return proto


def own(channels: int = 4, inputs: int = 3) -> str:
    """Nodes that give a function a convolution's weight and a batch norm's parameters of its own."""
    values = {"w": weight(channels, inputs, 3, 3), **parameters(channels)}
    return " ".join(f"{name} = Constant<value = {_text(array)}>()" for name, array in values.items())


def _text(array: np.ndarray) -> str:
    sizes = ",".join(map(str, array.shape))
    return f"float[{sizes}] {{{','.join(f'{value:.7f}' for value in array.reshape(-1))}}}"


KEPT = [
    pytest.param(
        with_functions(
            "s = local.Block(x, w, k, g, b, m, v) z = local.Block(x, w, k, v, b, m, v) y = Add(s, z)", TENSORS, BLOCK
        ),
        "inside-function",
        "takes it from its callers, which are 2",
        id="two calls with different parameters",
    ),
    pytest.param(
        with_functions("y = Relu(x)", TENSORS, BLOCK), "inside-function", "its callers, which are 0", id="no call"
    ),
    pytest.param(
        with_functions(
            "c = Conv(x, w, k) y = local.Norm(c, g, b, m, v)",
            TENSORS,
            f"Norm (a, g, b, m, v) => (r) {{ r = {bn('a')} }}",
        ),
        "inside-function",
        "of the function 'Norm', beyond which nothing is carried",
        id="the layer is outside",
    ),
    pytest.param(
        with_functions(CALL, TENSORS, BLOCK, opset=14),
        "inside-function",
        "BatchNormalization of opset 14, which is another one at the model's 20",
        id="an older batch norm",
    ),
    pytest.param(
        with_functions(CALL, TENSORS, BLOCK, opset=22),
        "inside-function",
        "Conv of opset 22, which is another one at the model's 20",
        id="a newer convolution",
    ),
    pytest.param(
        with_functions(
            CALL, TENSORS, BLOCK.replace("r = Relu(n)", "h = Neg(n) r = ReduceMean<axes = [1]>(h)"), opset=17
        ),
        "inside-function",
        "ReduceMean of opset 17",
        id="an operator behind it that takes its axes otherwise",
    ),
    pytest.param(
        with_functions(
            "z = local.Block(x, f, w, k, g, b, m, v) y = Neg(z)",
            TENSORS | {"f": np.array(1, dtype=bool)},
            "Block (a, f, w, k, g, b, m, v) => (r) { r = Relu(a) q = If(f) <"
            f"then_branch = t () => (n) {{ c = Conv(a, w, k) n = {bn('c')} }}, "
            "else_branch = e () => (p) { p = Constant<value = float {1}>() }> }",
            opset=18,
        ),
        "inside-function",
        "If of opset 18, which is another one",
        id="a branch at another opset",
    ),
    pytest.param(
        with_functions(CALL, TENSORS, BLOCK, opset=defs.onnx_opset_version() + 1),
        "inside-function",
        "which is another one",
        id="an opset that nobody knows yet",
    ),
    pytest.param(
        with_functions(
            "y = local.Block<e = 0.5>(x, w, k, g, b, m, v)",
            TENSORS,
            BLOCK.replace("Block (", "Block <e> (").replace("Normalization(", "Normalization<epsilon: float = @e>("),
        ),
        "inside-function",
        "the callers of its function set an attribute of it",
        id="an attribute from the caller",
    ),
    pytest.param(
        with_functions(
            f"{CALL} q = Relu(g)", TENSORS, BLOCK.replace("n = ", "h = Relu(g) n = ").replace("c, g", "c, h")
        ),
        "parameters-not-constant",
        "its scale is computed by Relu",
        id="γ computed inside",
    ),
    pytest.param(
        with_functions(CALL.replace(", g,", ", q,").replace("z =", "q = Relu(g) z ="), TENSORS, BLOCK),
        "parameters-not-constant",
        "its scale is computed by input 'g'",
        id="γ computed by the caller",
    ),
    pytest.param(
        with_functions(CALL, TENSORS, BLOCK.replace("r = Relu(n)", "r = Mul(n, c)")),
        "fan-out",
        "has 2 readers",
        id="somebody else inside reads the layer",
    ),
    pytest.param(
        with_functions(
            "y, z = local.Block(x, w, k, g, b, m, v)", TENSORS, BLOCK.replace("(r)", "(r, c)"), y="float[] y, float[] z"
        ),
        "model-output",
        "is an output",
        id="the function also gives the layer's output",
    ),
]


@pytest.mark.parametrize(("proto", "slug", "words"), KEPT)
def test_kept_and_left_alone(proto: ModelProto, slug: str, words: str) -> None:
    result = fold(proto)
    (keep,) = result.plan.keeps
    assert keep.reason.slug == slug
    assert words in keep.detail
    assert result.model == proto


FOLDED = [
    pytest.param(with_functions(CALL, TENSORS, BLOCK), "c", id="one call with constants"),
    pytest.param(
        with_functions(CALL, TENSORS, BLOCK.replace("c, g, b", "c, s, b").replace("n =", "s = Identity(g) n =")),
        "c",
        id="an identity inside",
    ),
    pytest.param(
        with_functions(
            "t = local.Block(x) z = local.Block(x) u = Relu(x) s = local.Block(u) p = Add(t, s) y = Sub(p, z)",
            {},
            f"Block (a) => (r) {{ {own()} c = Conv(a, w) n = {bn('c')} r = Relu(n) }}",
        ),
        "c",
        id="three calls, constants of its own",
    ),
    pytest.param(
        with_functions(
            "z = local.Outer(x, w, k, g, b, m, v) y = Neg(z)",
            TENSORS,
            BLOCK,
            "Outer (o, w1, k1, g1, b1, m1, v1) => (r) { p = Relu(o) r = local.Block(p, w1, k1, g1, b1, m1, v1) }",
        ),
        "c",
        id="a function in a function",
    ),
    pytest.param(
        with_functions(
            "s = local.Outer(x) z = Relu(x) t = local.Outer(z) y = Add(s, t)",
            {},
            f"Block (a, w, g, b, m, v) => (r) {{ c = Conv(a, w) n = {bn('c')} r = Relu(n) }}",
            f"Outer (o) => (r) {{ {own()} r = local.Block(o, w, g, b, m, v) }}",
        ),
        "c",
        id="a function that one called twice gives constants of its own",
    ),
    pytest.param(
        with_functions(CALL, TENSORS, BLOCK, opset=15), "c", id="another opset, at which its operators are the same"
    ),
    pytest.param(
        with_functions(CALL, TENSORS, BLOCK.replace("r = Relu(n)", "h = Add(n, n) r = Identity(h)"), opset=19),
        "c",
        id="the opset before, which only the new constants do not share",
    ),
    pytest.param(
        with_functions("z = local.Block(x, w, k, g, b, m, v) d = Conv(x, w, k) y = Add(z, d)", TENSORS, BLOCK),
        "c",
        id="a weight that the caller reads too",
    ),
]


@pytest.mark.parametrize(("proto", "into"), FOLDED)
def test_folded_inside(proto: ModelProto, into: str) -> None:
    result, found = folded(proto)
    assert list(found.values()) == [into]
    assert not [node for function in result.functions for node in function.node if node.op_type == "BatchNormalization"]
    assert [function.name for function in result.functions] == [function.name for function in proto.functions]
    assert_same_network(proto, result)
    assert_agrees_in_the_reference(proto, result)
    assert_scale_matters(proto, "g")
    read = {name for node in result.graph.node for name in node.input}
    assert {item.name for item in result.graph.initializer} <= read
    again = fold(result)
    assert len(again.plan) == 0
    assert again.model == result


def assert_agrees_in_the_reference(original: ModelProto, result: ModelProto) -> None:
    feeds = {"x": np.random.default_rng(3).normal(size=(2, 3, 6, 6)).astype(np.float32)}
    expected, actual = (onnx_reference.open_session(item.SerializeToString()).run(feeds) for item in (original, result))
    for name, values in expected.items():
        assert np.abs(values - actual[name]).max() <= 1e-5 * np.abs(values).max()


def test_a_folded_function_is_of_the_opset_of_the_model_and_any_other_stays_as_it_is() -> None:
    other = "Other (a) => (r) { r = Neg(a) }"
    proto = with_functions(CALL.replace("Neg(z)", "local.Other(z)"), TENSORS, BLOCK, other, opset=15)
    result, _ = folded(proto)
    opsets = [{item.domain: item.version for item in function.opset_import} for function in result.functions]
    assert opsets == [{"": 20, "local": 1}, {"": 15, "local": 1}]
    assert_same_network(proto, result)


def test_what_a_function_no_longer_reads_its_caller_no_longer_gives() -> None:
    proto = with_functions(CALL, TENSORS, BLOCK)
    assert_scale_matters(proto, "g")
    result, _ = folded(proto)
    (function,) = result.functions
    assert list(function.input) == ["a"]
    assert list(result.graph.node[0].input) == ["x"]
    assert not result.graph.initializer
    assert [node.op_type for node in function.node] == ["Constant", "Constant", "Conv", "Relu"]


def test_an_argument_that_callers_may_override_is_not_known() -> None:
    proto = with_functions(CALL, TENSORS, BLOCK)
    proto.graph.input.append(helper.make_tensor_value_info("g", TensorProto.FLOAT, [4]))
    assert verdicts(fold(proto).plan) == {"n": "overridable-initializer"}
    assert verdicts(fold(proto, freeze=True).plan) == {"n": "c"}


def test_a_function_with_the_name_of_an_operator_is_what_it_says() -> None:
    proto = model(f"c = Conv(x, w, k) y = {bn('c')}", TENSORS)
    proto.functions.append(
        parser.parse_function('<domain: "", opset_import: ["" : 20]> Conv (a, b, d) => (r) { r = Neg(a) }')
    )
    (keep,) = fold(proto).plan.keeps
    assert "a function of the model has its name" in keep.detail


def test_a_function_that_calls_itself_ends() -> None:
    proto = with_functions(
        "y = Relu(x)", {}, f"Loop (a, g, b, m, v) => (r) {{ c = {bn('a')} r = local.Loop(c, g, b, m, v) }}"
    )
    assert list(verdicts(fold(proto).plan).values()) == ["parameters-not-constant"]


def test_a_branch_inside_a_function_folds_and_reads_what_is_around_it() -> None:
    branch = f"{{ c = Conv(a, w, k) n = {bn('c')} }}"
    text = (
        "Block (a, f, w, k, g, b, m, v) => (r) { r = If(f) "
        f"<then_branch = t () => (n) {branch}, else_branch = e () => (q) {{ q = Conv(a, w, k) }}> }}"
    )
    body = "f = Constant<value = bool {1}>() z = local.Block(x, f, w, k, g, b, m, v) y = Neg(z)"
    proto = with_functions(body, TENSORS, text)
    result, found = folded(proto)
    assert found == {"n": "c"}
    assert_same_network(proto, result)


def test_a_product_below_whose_rank_nobody_knows_is_kept() -> None:
    proto = with_functions(
        "z = local.Head(x, w, g, b, m, v) y = Neg(z)",
        {"w": weight(6, 4), **parameters(6)},
        f"Head (a, w, g, b, m, v) => (r) {{ n = {bn('a')} r = MatMul(n, w) }}",
        x="float[N,6] x",
    )
    (keep,) = fold(proto).plan.keeps
    assert "the rank of" in keep.detail


def test_the_new_tensors_have_unused_names() -> None:
    proto = with_functions(CALL, TENSORS | {"w_folded": weight(4)}, BLOCK)
    proto.graph.output.append(helper.make_tensor_value_info("w_folded", TensorProto.FLOAT, [4]))
    result, _ = folded(proto)
    assert "w_folded_2" in {name for node in result.functions[0].node for name in node.output}
    assert tensor("w_folded", weight(4)) == result.graph.initializer[0]
