"""Every opset from 2 on and every IR version from 3 on: meanings that moved from attributes to inputs, or elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper, shape_inference
from onnx_graphs import (
    BN,
    Arrays,
    assert_same_network,
    assert_scale_matters,
    folded,
    model,
    parameters,
    tensor,
    verdicts,
    weight,
)

from bnfold import fold

NEWEST_OPSET = onnx.defs.onnx_opset_version()
NEWEST_IR = onnx.IR_VERSION
RUN_OPSETS = (7, 21)
RUN_IR = 10
"""What onnxruntime 1.20 runs, the oldest that bnfold asks for."""

OPSETS = (2, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 17, 18, 20, 22, NEWEST_OPSET)
CONV = {"w": weight(4, 3, 3, 3), "k": weight(4), **parameters(4)}
WIDE_CONV = {"w": weight(6, 3, 3, 3), "k": weight(6), **parameters(4)}
LINEAR = {"w": weight(3, 4), "k": weight(4), **parameters(4)}
ROWS = "float[2,3] x"
Graph = tuple[str, Arrays] | tuple[str, Arrays, str]


def bn(source: str, opset: int) -> str:
    """A batch norm in inference mode: is_test up to opset 6, and consumed_inputs before it."""
    attributes = ["is_test = 1"] * (opset <= 6) + ["consumed_inputs = [0, 0, 0, 1, 1]"] * (opset <= 5)
    given = f"<{', '.join(attributes)}>" if attributes else ""
    return f"BatchNormalization{given}({source}, {BN})"


def gemm(opset: int, attributes: str = "alpha = 1.0") -> str:
    """The beginning of a Gemm that adds a vector: up to opset 6 that takes an attribute."""
    return f"Gemm<{attributes}{', broadcast = 1' if opset <= 6 else ''}>"


def moved(
    opset: int, since: int, operator: str, source: str, attributes: str, *, keep: str = "", **inputs: Any
) -> tuple[str, Arrays]:
    """An operator whose attributes became inputs: its text before and from the opset ``since``, and the tensors."""
    if opset < since:
        return f"{operator}<{', '.join(filter(None, (attributes, keep)))}>({source})", {}
    return (
        f"{operator}{f'<{keep}>' if keep else ''}({source}, {', '.join(inputs)})",
        {name: np.asarray(values) for name, values in inputs.items()},
    )


def gemm_with_a_vector(opset: int) -> Graph:
    return f"c = {gemm(opset)}(x, w, k) y = {bn('c', opset)}", LINEAR, ROWS


def gemm_with_a_matrix(opset: int) -> Graph:
    return f"c = Gemm<alpha = 0.5, beta = 2.0>(x, w, k) y = {bn('c', opset)}", LINEAR | {"k": weight(2, 4)}, ROWS


def gemm_with_one_number(opset: int) -> Graph:
    return f"c = {gemm(opset, 'beta = 2.0')}(x, w, k) y = {bn('c', opset)}", LINEAR | {"k": weight(1)}, ROWS


def before_gemm(opset: int) -> Graph:
    return (
        f"c = {bn('x', opset)} y = {gemm(opset)}(c, w, k)",
        LINEAR | {"w": weight(4, 5), "k": weight(5)},
        "float[2,4] x",
    )


def matmul(opset: int) -> Graph:
    return f"c = MatMul(x, w) y = {bn('c', opset)}", LINEAR, ROWS


def matmul_and_its_sum(opset: int) -> Graph:
    added = "Add<broadcast = 1>" if opset <= 6 else "Add"
    return f"p = MatMul(x, w) c = {added}(p, k) y = {bn('c', opset)}", LINEAR, ROWS


def residual(opset: int) -> Graph:
    return f"c = Conv(x, w, k) d = Conv(x, w2) a = Add(c, d) y = {bn('a', opset)}", CONV | {
        "w2": weight(4, 3, 3, 3, seed=9)
    }


def dropout(opset: int) -> Graph:
    attributes = "<is_test = 1, ratio = 0.5>" if opset <= 6 else "<ratio = 0.5>" if opset <= 11 else ""
    return f"c = Conv(x, w, k) d = Dropout{attributes}(c) y = {bn('d', opset)}", CONV


def reshape(opset: int) -> Graph:
    cut, inputs = moved(opset, 5, "Reshape", "c", "shape = [2, 4, 1, 1]", s=[2, 4, 1, 1])
    return f"c = {gemm(opset)}(x, w, k) r = {cut} y = {bn('r', opset)}", LINEAR | inputs, ROWS


def flatten_below(opset: int) -> Graph:
    tensors = {"w": weight(36, 5), "k": weight(5), **parameters(4)}
    return f"c = {bn('x', opset)} f = Flatten(c) y = {gemm(opset)}(f, w, k)", tensors, "float[2,4,3,3] x"


def squeeze(opset: int) -> Graph:
    squeezed, inputs = moved(opset, 13, "Squeeze", "p", "axes = [2, 3]", a=[2, 3])
    return f"c = Conv(x, w, k) p = GlobalAveragePool(c) q = {squeezed} y = {bn('q', opset)}", CONV | inputs


def unsqueeze(opset: int) -> Graph:
    unsqueezed, inputs = moved(opset, 13, "Unsqueeze", "c", "axes = [2, 3]", a=[2, 3])
    return f"c = {gemm(opset)}(x, w, k) q = {unsqueezed} y = {bn('q', opset)}", LINEAR | inputs, ROWS


def reduce_mean(opset: int) -> Graph:
    mean, inputs = moved(opset, 18, "ReduceMean", "c", "axes = [2, 3]", keep="keepdims = 0", a=[2, 3])
    return f"c = Conv(x, w, k) p = {mean} y = {bn('p', opset)}", CONV | inputs


def reflecting_pad(opset: int) -> Graph:
    pads = [0, 0, 1, 1, 0, 0, 1, 1]
    padded, inputs = moved(opset, 11, "Pad", "c", f"pads = {pads}", keep='mode = "reflect"', p=pads)
    return f"c = Conv(x, w, k) e = {padded} y = {bn('e', opset)}", CONV | inputs


def zero_pad(opset: int) -> Graph:
    pads = [0, 0, 1, 1, 0, 0, 1, 1]
    padded, inputs = moved(opset, 11, "Pad", "c", f"pads = {pads}", p=pads)
    return f"c = Conv(x, w, k) e = {padded} y = {bn('e', opset)}", CONV | inputs


def slice_of_channels(opset: int) -> Graph:
    cut, inputs = moved(opset, 10, "Slice", "c", "starts = [1], ends = [5], axes = [1]", s=[1], e=[5], a=[1])
    return f"c = Conv(x, w, k) p = {cut} y = {bn('p', opset)}", WIDE_CONV | inputs


def split(opset: int) -> Graph:
    parts, inputs = moved(opset, 13, "Split", "c", "split = [4, 2]", keep="axis = 1", s=[4, 2])
    body = f"c = Conv(x, w, k) p, q = {parts} n = {bn('p', opset)} r = Relu(q) y = Concat<axis = 1>(n, r)"
    return body, WIDE_CONV | inputs


def concat(opset: int) -> Graph:
    joined = "Concat" if opset < 4 else "Concat<axis = 1>"
    tensors = {"w": weight(1, 3, 3, 3), "w2": weight(3, 3, 3, 3), **parameters(4)}
    return f"c = Conv(x, w) d = Conv(x, w2) e = {joined}(c, d) y = {bn('e', opset)}", tensors


def transpose(opset: int) -> Graph:
    return f"c = MatMul(x, w) t = Transpose<perm = [0, 2, 1]>(c) y = {bn('t', opset)}", LINEAR, "float[2,5,3] x"


def average_pool(opset: int) -> Graph:
    pooled = "AveragePool<kernel_shape = [2, 2], pads = [1, 1, 1, 1]>(c)"
    return f"c = Conv(x, w, k) p = {pooled} y = {bn('p', opset)}", CONV


def upsample(opset: int) -> Graph:
    sizes = {"s": np.array([1, 1, 2, 2], np.float32)}
    if opset < 9:
        scales = "height_scale = 2.0, width_scale = 2.0" if opset < 7 else "scales = [1.0, 1.0, 2.0, 2.0]"
        larger, sizes = f'Upsample<{scales}, mode = "nearest">(c)', {}
    elif opset < 11:
        larger = f'{"Upsample" if opset < 10 else "Resize"}<mode = "nearest">(c, s)'
    else:
        larger, sizes = 'Resize<mode = "nearest">(c, roi, s)', sizes | {"roi": np.zeros(8, np.float32)}
    return f"c = Conv(x, w, k) p = {larger} y = {bn('p', opset)}", CONV | sizes


def cast_to_the_same(opset: int) -> Graph:
    to = '"FLOAT"' if opset < 6 else "1"
    return f"c = Conv(x, w, k) p = Cast<to = {to}>(c) y = {bn('p', opset)}", CONV


def scale_of_caffe(opset: int) -> Graph:
    """As Caffe's Scale layer comes out: a product and a sum with one number a channel."""
    attributes = "<broadcast = 1, axis = 1>" if opset <= 6 else ""
    shape = (4,) if opset <= 6 else (4, 1, 1)
    tensors = CONV | {"f": weight(*shape, seed=5), "h": weight(*shape, seed=6)}
    return f"c = Conv(x, w, k) n = {bn('c', opset)} a = Mul{attributes}(n, f) y = Add{attributes}(a, h)", tensors


def scale_of_caffe_between_activations(opset: int) -> Graph:
    attributes = "<broadcast = 1, axis = 1>" if opset <= 6 else ""
    shape = (4,) if opset <= 6 else (4, 1, 1)
    tensors = parameters(4) | {"f": weight(*shape, seed=5), "h": weight(*shape, seed=6)}
    body = f"r = Relu(x) n = {bn('r', opset)} a = Mul{attributes}(n, f) s = Add{attributes}(a, h) y = Relu(s)"
    return body, tensors, "float[2,4,3,3] x"


GRAPHS: dict[Callable[[int], Graph], dict[str, str]] = {
    gemm_with_a_vector: {"y": "c"},
    gemm_with_a_matrix: {"y": "c"},
    gemm_with_one_number: {"y": "c"},
    before_gemm: {"c": "y"},
    matmul: {"y": "c"},
    matmul_and_its_sum: {"y": "p"},
    residual: {"y": "d,c"},
    dropout: {"y": "c"},
    reshape: {"y": "c"},
    flatten_below: {"c": "y"},
    squeeze: {"y": "c"},
    unsqueeze: {"y": "c"},
    reduce_mean: {"y": "c"},
    reflecting_pad: {"y": "c"},
    zero_pad: {"y": "padded-input"},
    slice_of_channels: {"y": "c"},
    split: {"n": "c"},
    concat: {"y": "d,c"},
    transpose: {"y": "c"},
    average_pool: {"y": "c"},
    upsample: {"y": "c"},
    cast_to_the_same: {"y": "c"},
    scale_of_caffe: {"n": "c", "a": "c"},
    scale_of_caffe_between_activations: {"n": "a", "a": "no-linear-layer"},
}
"""The verdicts, which are the same at every opset."""


def at_opset(graph: Graph, opset: int, ir_version: int | None = None) -> ModelProto:
    """The graph as a model, of the IR version of its time unless told, its output's shape declared."""
    body, tensors, *inputs = graph
    released = {row[1]: row[2] for row in reversed(helper.VERSION_TABLE)}
    proto = model(
        body,
        tensors,
        opset=opset,
        ir_version=ir_version or released.get(opset, 3),
        **({"x": inputs[0]} if inputs else {}),
    )
    known = shape_inference.infer_shapes(runnable(proto), data_prop=True).graph.output
    for declared, inferred in zip(proto.graph.output, known, strict=True):
        declared.CopyFrom(inferred)
    return proto


def runnable(proto: ModelProto) -> ModelProto:
    """The same network at an opset and IR version that onnxruntime knows: nothing we run is older than opset 7."""
    raised = ModelProto()
    raised.CopyFrom(proto)
    raised.ir_version = min(proto.ir_version, RUN_IR)
    raised.opset_import[0].version = min(max(proto.opset_import[0].version, RUN_OPSETS[0]), RUN_OPSETS[1])
    if proto.opset_import[0].version < RUN_OPSETS[0]:
        for node in raised.graph.node:
            _raise_to_opset_7(node, raised)
    return raised


def _raise_to_opset_7(node: NodeProto, proto: ModelProto) -> None:
    """Write a node of opset 6 or older as at opset 7 (the operator pages' changes); values have four axes here."""
    old = {item.name: helper.get_attribute_value(item) for item in node.attribute}
    dropped = {"is_test", "consumed_inputs", "broadcast", "axis" if node.op_type in {"Add", "Mul"} else ""}
    replaced = {name: value for name, value in old.items() if name not in dropped}
    if node.op_type == "Concat":
        replaced.setdefault("axis", 1)
    if node.op_type == "Cast" and isinstance(old["to"], bytes):
        replaced["to"] = TensorProto.DataType.Value(old["to"].decode())
    if node.op_type == "Upsample":
        replaced = {"mode": "nearest", "scales": [1.0, 1.0, old["height_scale"], old["width_scale"]]}
    if node.op_type == "Reshape" and "shape" in old:
        proto.graph.initializer.append(tensor("raised_shape", np.array(replaced.pop("shape"), np.int64)))
        node.input.append("raised_shape")
    if "axis" in old and node.op_type in {"Add", "Mul"}:
        wide = next(item for item in proto.graph.initializer if item.name == node.input[1])
        values = numpy_helper.to_array(wide)
        proto.graph.initializer.append(tensor(f"raised_{wide.name}", values.reshape(-1, 1, 1)))
        node.input[1] = f"raised_{wide.name}"
    del node.attribute[:]
    node.attribute.extend(helper.make_attribute(name, value) for name, value in replaced.items())


MODELS = [pytest.param(graph, opset, id=f"{graph.__name__}, opset {opset}") for graph in GRAPHS for opset in OPSETS]


@pytest.mark.parametrize(("graph", "opset"), MODELS)
def test_an_operator_is_understood_as_its_opset_means_it(graph: Callable[[int], Graph], opset: int) -> None:
    original = at_opset(graph(opset), opset)
    result, found = folded(original)
    assert found == GRAPHS[graph]
    assert result.opset_import == original.opset_import
    assert result.ir_version == original.ir_version
    assert_same_network(runnable(original), runnable(result))
    assert_scale_matters(runnable(original), "g")


@pytest.mark.parametrize("ir_version", range(3, NEWEST_IR + 1))
@pytest.mark.parametrize("opset", range(2, NEWEST_OPSET + 1))
def test_conv_and_batch_norm_fold_at_every_opset_and_ir_version(opset: int, ir_version: int) -> None:
    original = at_opset((f"c = Conv(x, w, k) y = {bn('c', opset)}", CONV), opset, ir_version)
    result, found = folded(original)
    assert found == {"y": "c"}
    assert (result.ir_version, result.opset_import[0].version) == (ir_version, opset)
    assert_same_network(runnable(original), runnable(result))
    inputs, initializers = ({item.name for item in items} for items in (result.graph.input, result.graph.initializer))
    assert initializers <= inputs if ir_version < 4 else initializers.isdisjoint(inputs)


REFUSED = [
    *((opset, "training-mode", f"BatchNormalization<is_test = 0>(c, {BN})") for opset in (2, 5, 6)),
    *((opset, "training-mode", f"BatchNormalization(c, {BN})") for opset in (2, 5, 6)),
    *((opset, "foreign-axis", f"BatchNormalization<is_test = 1, spatial = 0>(c, {BN})") for opset in (2, 5, 6)),
    *((opset, "foreign-axis", f"BatchNormalization<spatial = 0>(c, {BN})") for opset in (7, 8)),
    *((opset, "training-mode", f"BatchNormalization<training_mode = 1>(c, {BN})") for opset in (14, 15, 22)),
]


@pytest.mark.parametrize(
    ("opset", "reason", "text"), REFUSED, ids=[f"opset {opset}, {text.partition('(')[0]}" for opset, _, text in REFUSED]
)
def test_a_batch_norm_that_is_no_fixed_map_per_channel_at_its_opset_stays(opset: int, reason: str, text: str) -> None:
    original = model(f"c = Conv(x, w, k) y = {text}", CONV, opset=opset, ir_version=3 if opset < 9 else 8)
    result = fold(original)
    assert verdicts(result.plan) == {"y": reason}
    assert result.model == original


@pytest.mark.parametrize("opset", [7, 8, 9, 13])
def test_a_batch_norm_with_five_outputs_before_opset_14_trains_and_stays(opset: int) -> None:
    body = f"c = Conv(x, w, k) y, mean, var, saved_mean, saved_var = BatchNormalization(c, {BN})"
    assert verdicts(fold(model(body, CONV, opset=opset, ir_version=3)).plan) == {"y": "statistics-outputs-used"}


@pytest.mark.parametrize(
    ("opset", "text", "inputs"),
    [
        pytest.param(2, "Dropout<ratio = 0.5>(c)", {}, id="opset 2, without is_test"),
        pytest.param(6, "Dropout<ratio = 0.5, is_test = 0>(c)", {}, id="opset 6, is_test=0"),
        pytest.param(
            12,
            "Dropout(c, r, t)",
            {"r": np.array(0.5, np.float32), "t": np.array(1, bool)},
            id="opset 12, training_mode",
        ),
        pytest.param(
            22,
            "Dropout(c, r, t)",
            {"r": np.array(0.5, np.float32), "t": np.array(1, bool)},
            id="opset 22, training_mode",
        ),
    ],
)
def test_a_dropout_that_trains_at_its_opset_is_not_crossed(opset: int, text: str, inputs: Arrays) -> None:
    body = f"c = Conv(x, w, k) d = {text} y = {bn('d', opset)}"
    assert verdicts(fold(model(body, CONV | inputs, opset=opset, ir_version=3)).plan) == {"y": "no-linear-layer"}


@pytest.mark.parametrize("opset", [7, 10, 11, 19, 22])
def test_an_average_that_counts_zero_padding_takes_no_shift_at_any_opset(opset: int) -> None:
    pooled = "AveragePool<kernel_shape = [2, 2], pads = [1, 1, 1, 1], count_include_pad = 1>(c)"
    body = f"c = Conv(x, w, k) p = {pooled} y = {bn('p', opset)}"
    assert verdicts(fold(model(body, CONV, opset=opset, ir_version=3)).plan) == {"y": "padded-input"}


@pytest.mark.parametrize("opset", [18, 19, 21, NEWEST_OPSET])
def test_padding_named_by_axes_is_understood_from_opset_18(opset: int) -> None:
    body = f'c = Conv(x, w, k) p = Pad<mode = "edge">(c, pads, , a) y = {bn("p", opset)}'
    original = at_opset((body, CONV | {"pads": np.array([1, 1, 1, 1]), "a": np.array([-2, 3])}), opset)
    result, found = folded(original)
    assert found == {"y": "c"}
    assert_same_network(runnable(original), runnable(result))


OLD_ARITHMETIC = [
    pytest.param("y = Sub<broadcast = 1, axis = 1>(c, f)", (4,), 1, id="subtracted along the channels"),
    pytest.param("y = Div<broadcast = 1, axis = -3>(c, f)", (4,), 1, id="a negative axis"),
    pytest.param("y = Mul<broadcast = 1>(c, f)", (1,), 1, id="one number"),
    pytest.param("y = Mul<broadcast = 1, axis = 0>(c, f)", (1, 4), 1, id="from the batch on"),
    pytest.param("y = Add<broadcast = 1, axis = 3>(c, f)", (4,), 0, id="along the width, of the same size"),
    pytest.param("y = Add<broadcast = 1>(c, f)", (4,), 0, id="along the last axis, unless told"),
    pytest.param("y = Add<broadcast = 1, axis = 3>(c, f)", (4, 1, 1), 0, id="beyond the last axis"),
    pytest.param("y = Add<axis = 1>(c, f)", (4,), 0, id="an axis, but no broadcast"),
    pytest.param("y = Add<broadcast = 1, axis = 1>(f, c)", (4,), 0, id="the constant first"),
    pytest.param("d = Conv(x, w2) y = Add<broadcast = 1, axis = 1>(c, d)", (4,), 0, id="two values"),
]


@pytest.mark.parametrize(("text", "shape", "folds"), OLD_ARITHMETIC)
def test_arithmetic_of_opset_6_broadcasts_where_it_is_told_to(text: str, shape: tuple[int, ...], folds: int) -> None:
    tensors = CONV | {"f": weight(*shape, seed=5), "w2": weight(4, 3, 3, 3, seed=9)}
    proto = model(f"c = Conv(x, w, k) {text}", tensors, opset=6, ir_version=3)
    assert len(fold(proto).plan.also_folded) == folds


def test_what_is_written_at_opset_6_says_that_it_broadcasts() -> None:
    matmul = model(f"c = MatMul(x, w) y = {bn('c', 6)}", LINEAR, x=ROWS, opset=6, ir_version=3)
    result, _ = folded(matmul)
    assert [item.name for item in result.graph.node[1].attribute] == ["broadcast"]
    body, tensors, *_ = scale_of_caffe_between_activations(6)
    result, _ = folded(model(body, tensors, x="float[2,4,3,3] x", opset=6, ir_version=3))
    for node in result.graph.node[1:3]:
        assert {item.name: item.i for item in node.attribute} == {"axis": 1, "broadcast": 1}


def test_a_bias_that_opset_6_adds_along_another_axis_is_no_bias() -> None:
    body = f"p = MatMul(x, w) c = Add<broadcast = 1, axis = 0>(p, k) y = {bn('c', 6)}"
    proto = model(body, LINEAR | {"w": weight(3, 4)}, x="float[4,3] x", opset=6, ir_version=3)
    assert "c" not in verdicts(fold(proto).plan).values()
    assert fold(proto).model == proto
