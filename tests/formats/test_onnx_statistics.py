"""Calibrating ONNX models: refusals first, then NumPy's two-pass mean and variance, layer by layer, as the judge."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import ModelProto, helper, numpy_helper
from onnx_graphs import BN, Arrays, bn, folded, model, outputs_of, parameters, weight

from bnfold import BnfoldError, calibrate
from bnfold.records import CalibrateReport

Array = NDArray[Any]
X = "double[N,5] x"
Y = "double[N,4] y"


def training(source: str, suffix: str = "", outputs: str = "y") -> str:
    """The text of a batch norm in training mode, opset 14 or later, with all of its outputs."""
    return f"{outputs} = BatchNormalization<training_mode = 1, epsilon = 0.001>({source}, {_with(suffix)})"


def _with(suffix: str) -> str:
    return ", ".join(name + suffix for name in BN.split(", "))


def samples(*shape: int, seed: int = 5, dtype: str = "float64") -> Array:
    return np.random.default_rng(seed).normal(1.5, 3, shape).astype(dtype)


def calibrated(proto: ModelProto, x: Array, **options: Any) -> tuple[ModelProto, CalibrateReport]:
    """The calibrated model, which onnx's checker accepts; the one given stays as it was."""
    before = proto.SerializeToString(deterministic=True)
    result = calibrate(proto, x, batch=7, **options)
    assert proto.SerializeToString(deterministic=True) == before
    onnx.checker.check_model(result.model, full_check=True)
    return result.model, result.report


def stored(proto: ModelProto, slot: int) -> list[Array]:
    """What the batch norms read on an input slot, in graph order."""
    tensors = {item.name: numpy_helper.to_array(item) for item in proto.graph.initializer}
    return [tensors[node.input[slot]] for node in proto.graph.node if node.op_type == "BatchNormalization"]


DENSE = {"w": weight(5, 4, dtype="float64")} | parameters(4, dtype="float64")

REFUSED = {
    "in a branch": (
        "y = If(c) <then_branch = t () => (double[N,4] p) { h = MatMul(x, w) "
        "p, m2, v2 = BatchNormalization<training_mode = 1>(h, g, b, m, v) }, "
        "else_branch = e () => (double[N,4] q) { q = MatMul(x, w) }>",
        "it is inside a subgraph",
    ),
    "its mean is read": (
        f"h = MatMul(x, w) {training('h', outputs='n, m2, v2')} y = Add(n, m2)",
        "its further output 'm2' is used",
    ),
}


@pytest.mark.parametrize(("body", "why"), REFUSED.values(), ids=REFUSED)
def test_a_training_mode_that_statistics_cannot_end_is_refused(body: str, why: str) -> None:
    proto = model(body, DENSE | {"c": np.array(True)}, x=X, y="double[N,4] y", opset=15, ir_version=8)  # noqa: FBT003 - data
    with pytest.raises(BnfoldError, match=why) as refusal:
        calibrate(proto, samples(30, 5))
    assert refusal.value.exit_code == 3
    assert refusal.value.remedy


def test_a_mean_that_is_an_output_of_the_model_is_refused() -> None:
    proto = model(f"h = MatMul(x, w) {training('h', outputs='y, m2, v2')}", DENSE, x=X, y="double[N,4] y, double[4] m2")
    with pytest.raises(BnfoldError, match="'m2' is used"):
        calibrate(proto, samples(30, 5))


def test_one_number_an_element_is_refused() -> None:
    proto = model(
        f"y, a, b2, c, d = BatchNormalization<spatial = 0>(x, {BN})", parameters(5), x="float[N,5] x", opset=8
    )
    with pytest.raises(BnfoldError, match="spatial=0"):
        calibrate(proto, samples(30, 5, dtype="float32"))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_is_refused_by_name(value: float) -> None:
    x = samples(30, 5)
    x[11, 2] = value
    proto = model(training("x", outputs="y, m2, v2"), parameters(5, dtype="float64"), x=X, y="double[N,5] y")
    with pytest.raises(BnfoldError, match="NaN or Inf goes into the batch norm 'y': channel 2"):
        calibrate(proto, x)


def test_statistics_that_do_not_fit_the_dtype_are_refused() -> None:
    proto = model(training("x", outputs="y, m2, v2"), parameters(5, dtype="float16"), x="float16[N,5] x")
    with pytest.raises(BnfoldError, match="do not fit into float16"):
        calibrate(proto, samples(30, 5) * 1000)


def test_a_model_with_two_inputs_is_refused() -> None:
    proto = model(
        f"h = Add(x, z) {training('h', outputs='y, m2, v2')}",
        parameters(5, dtype="float64"),
        x=f"{X}, double[N,5] z",
        y="double[N,5] y",
    )
    with pytest.raises(BnfoldError, match="the data feeds one input, and the model has 2"):
        calibrate(proto, samples(30, 5))


# What is estimated


def normalised(x: Array, tensors: Arrays, suffix: str = "") -> tuple[Array, Array, Array]:
    """Population statistics by NumPy's two passes, and ``x`` normalised with them."""
    axes = (0, *range(2, x.ndim))
    mean, variance = x.mean(axis=axes), x.var(axis=axes, ddof=1)
    along = (1, -1, *[1] * (x.ndim - 2))
    scale = (tensors[f"g{suffix}"] / np.sqrt(variance + np.float32(0.001))).reshape(along)
    return mean, variance, (x - mean.reshape(along)) * scale + tensors[f"b{suffix}"].reshape(along)


@settings(max_examples=30)
@given(seed=st.integers(0, 2**16), depth=st.integers(1, 4), rows=st.integers(3, 40))
def test_a_chain_has_numpys_statistics_each_seen_through_those_before_it(seed: int, depth: int, rows: int) -> None:
    tensors: Arrays = {}
    body, source = "", "x"
    for level in range(depth):
        tensors |= {f"w{level}": weight(5, 5, dtype="float64", seed=seed + level)}
        tensors |= parameters(5, str(level), dtype="float64", seed=seed + level)
        name = f"h{level}"
        body += f"a{level} = MatMul({source}, w{level}) "
        body += training(f"a{level}", str(level), outputs=f"{name}, m{name}, v{name}") + f" s{level} = Tanh({name}) "
        source = f"s{level}"
    proto = model(f"{body} y = Identity({source})", tensors, x=X, y="double[N,5] y", opset=15)
    x = samples(rows, 5, seed=seed)
    result, report = calibrated(proto, x)
    assert report.steps == depth
    values = x
    for level, (mean, variance) in enumerate(zip(stored(result, 3), stored(result, 4), strict=True)):
        expected_mean, expected_variance, values = normalised(values @ tensors[f"w{level}"], tensors, str(level))
        np.testing.assert_allclose(mean, expected_mean, rtol=1e-10, atol=1e-10)
        np.testing.assert_allclose(variance, expected_variance, rtol=1e-10)
        values = np.tanh(values)
    np.testing.assert_allclose(outputs_of(result, {"x": x})["y"], values, rtol=1e-9, atol=1e-9)


def test_images_are_estimated_over_samples_and_positions() -> None:
    tensors = {"w": weight(4, 3, 3, 3)} | parameters(4)
    proto = model(
        f"h = Conv(x, w) {training('h', outputs='y, m2, v2')}", tensors, x="float[N,3,6,6] x", y="float[N,4,4,4] y"
    )
    x = samples(40, 3, 6, 6, dtype="float32")
    result, report = calibrated(proto, x)
    conv = outputs_of(
        model("y = Conv(x, w)", {"w": tensors["w"]}, x="float[N,3,6,6] x", y="float[N,4,4,4] y"), {"x": x}
    )
    mean, variance, _ = normalised(conv["y"].astype(np.float64), tensors)
    np.testing.assert_allclose(stored(result, 3)[0], mean, rtol=1e-6)
    np.testing.assert_allclose(stored(result, 4)[0], variance, rtol=1e-6)
    assert report.batch_norms[0].values == 40 * 16


FORMS = {
    "opset 15": (15, "BatchNormalization<training_mode = 1>", "y, m2, v2"),
    "opset 14": (14, "BatchNormalization<training_mode = 1>", "y, m2, v2"),
    "opset 14, an output left out": (14, "BatchNormalization<training_mode = 1>", 'y, "", v2'),
    "opset 14, one output": (14, "BatchNormalization<training_mode = 1>", "y"),
    "opset 9": (9, "BatchNormalization", "y, m2, v2, m3, v3"),
    "opset 9, some outputs": (9, "BatchNormalization", "y, m2"),
    "opset 7": (7, "BatchNormalization", "y, m2, v2, m3, v3"),
    "opset 6": (6, "BatchNormalization<is_test = 0>", "y, m2, v2, m3, v3"),
    "opset 6, one output": (6, "BatchNormalization", "y"),
}


@pytest.mark.parametrize(("opset", "op", "outputs"), FORMS.values(), ids=FORMS)
def test_every_form_of_training_mode_ends_with_one_output(opset: int, op: str, outputs: str) -> None:
    names = [name.strip('" ') for name in outputs.split(",")]
    tensors = {"w": weight(4, 3, 1, 1)} | parameters(4)
    proto = model("h = Conv(x, w) y = Relu(h)", tensors, x="float[N,3,2,2] x", y="float[N,4,2,2] y", opset=opset)
    attributes: dict[str, Any] = (
        {"training_mode": 1} if "training_mode" in op else {"is_test": 0} if "is_test" in op else {}
    )
    del proto.graph.node[1]
    proto.graph.node.append(helper.make_node("BatchNormalization", ["h", "g", "b", "m", "v"], names, **attributes))
    result, report = calibrated(proto, samples(40, 3, 2, 2, dtype="float32"))
    assert [item.action for item in report.batch_norms] == ["estimated"]
    node = result.graph.node[1]
    assert list(node.output) == ["y"]
    assert {item.name: item.i for item in node.attribute}.get("training_mode", 0) == 0
    assert {item.name: item.i for item in node.attribute}.get("is_test", 1) == 1
    _, verdicts = folded(result)
    assert list(verdicts.values()) == ["h"]


AXES = {13: "<axes = [0, 2, 3], keepdims = {}>({})", 18: "<keepdims = {}>({}, axes)"}


def spelled_out(source: str, output: str, opset: int, suffix: str = "") -> str:
    """A batch norm without running statistics as torch exports it."""
    mean, kept, variance = (f"ReduceMean{AXES[opset]}" for _ in range(3))
    p, u = f"p{suffix}", suffix
    return (
        f"mean{u} = {mean.format(0, source)} kept{u} = {kept.format(1, source)} {p} = Sub({source}, kept{u}) "
        f"square{u} = Mul({p}, {p}) var{u} = {variance.format(0, f'square{u}')} "
        f"{output} = BatchNormalization<epsilon = 0.001>({source}, g{suffix}, b{suffix}, mean{u}, var{u}) "
    )


@pytest.mark.parametrize("opset", AXES)
def test_statistics_that_the_model_computes_of_each_batch_are_replaced_and_gone(opset: int) -> None:
    tensors = {"w": weight(4, 3, 3, 3), "axes": np.array([0, 2, 3])} | parameters(4, "1") | parameters(4, "2")
    body = f"h = Conv(x, w) {spelled_out('h', 'n', opset, '1')} r = Relu(n) {spelled_out('r', 'y', opset, '2')}"
    proto = model(body, tensors, x="float[N,3,6,6] x", y="float[N,4,4,4] y", opset=opset)
    x = samples(40, 3, 6, 6, dtype="float32")
    result, report = calibrated(proto, x)
    assert [(item.action, item.step) for item in report.batch_norms] == [("estimated", 1), ("estimated", 2)]
    assert [node.op_type for node in result.graph.node] == ["Conv", "BatchNormalization", "Relu", "BatchNormalization"]
    assert opset == 13 or "axes" not in {item.name for item in result.graph.initializer}
    conv = outputs_of(
        model("y = Conv(x, w)", {"w": tensors["w"]}, x="float[N,3,6,6] x", y="float[N,4,4,4] y"), {"x": x}
    )
    mean, variance, values = normalised(conv["y"].astype(np.float64), tensors, "1")
    np.testing.assert_allclose(stored(result, 3)[0], mean, rtol=1e-5)
    np.testing.assert_allclose(stored(result, 4)[0], variance, rtol=1e-5)
    np.testing.assert_allclose(stored(result, 3)[1], np.maximum(values, 0).mean(axis=(0, 2, 3)), rtol=1e-4)


def test_computed_statistics_that_somebody_else_reads_stay_computed_for_him() -> None:
    tensors = {"axes": np.array([0, 2, 3])} | parameters(3)
    proto = model(
        f"{spelled_out('x', 'y', 18)} z = Exp(mean)", tensors, x="float[N,3,6,6] x", y="float[N,3,6,6] y, float[3] z"
    )
    result, _ = calibrated(proto, samples(40, 3, 6, 6, dtype="float32"))
    assert sorted(node.op_type for node in result.graph.node) == ["BatchNormalization", "Exp", "ReduceMean"]


OTHERWISE_COMPUTED = {
    "from another value": ("other = Neg(x)", "other", "other"),
    "not squared": ("d = Abs(x)", "x", "d"),
}


@pytest.mark.parametrize(("before", "mean", "variance"), OTHERWISE_COMPUTED.values(), ids=OTHERWISE_COMPUTED)
def test_statistics_that_are_computed_otherwise_stay(before: str, mean: str, variance: str) -> None:
    body = (
        f"{before} m2 = ReduceMean<keepdims = 0>({mean}, axes) v2 = ReduceMean<keepdims = 0>({variance}, axes) "
        "y = BatchNormalization(x, g, b, m2, v2)"
    )
    proto = model(body, {"axes": np.array([0, 2, 3])} | parameters(3), x="float[N,3,6,6] x", y="float[N,3,6,6] y")
    report = calibrate(proto, samples(40, 3, 6, 6, dtype="float32"), refresh=True).report
    assert [(item.action, item.why) for item in report.batch_norms] == [
        ("kept", "its statistics are computed while the model runs")
    ]


def test_branches_share_a_pass_and_what_joins_them_takes_another() -> None:
    tensors = {"w": weight(5, 5, dtype="float64")}
    for suffix in "abcd":
        tensors |= parameters(5, suffix, dtype="float64")
    body = (
        f"{training('x', 'a', 'p, p1, p2')} h = MatMul(x, w) {training('h', 'b', 'q, q1, q2')} "
        f"s = Add(p, q) {training('s', 'c', 'r, r1, r2')} {training('r', 'd', 'y, y1, y2')}"
    )
    _, report = calibrated(model(body, tensors, x=X, y="double[N,5] y"), samples(50, 5))
    assert [item.step for item in report.batch_norms] == [1, 1, 2, 3]


def test_what_an_if_takes_from_around_it_counts_as_read() -> None:
    body = (
        f"{training('x', 'a', 'p, p1, p2')} "
        "h = If(c) <then_branch = t () => (double[N,5] t1) { t1 = Identity(p) }, "
        "else_branch = e () => (double[N,5] e1) { e1 = Neg(p) }> "
        f"{training('h', 'b', 'y, y1, y2')}"
    )
    tensors = parameters(5, "a", dtype="float64") | parameters(5, "b", dtype="float64") | {"c": np.array(True)}  # noqa: FBT003 - data
    proto = model(body, tensors, x=X, y="double[N,5] y", opset=16, ir_version=8)
    x = samples(50, 5)
    result, report = calibrated(proto, x)
    assert [item.step for item in report.batch_norms] == [1, 2]
    mean, _, _ = normalised(normalised(x, tensors, "a")[2], tensors, "b")
    np.testing.assert_allclose(stored(result, 3)[1], mean, rtol=1e-10, atol=1e-10)


def test_shared_statistics_become_two_populations() -> None:
    shared = parameters(5, dtype="float64")
    body = f"{training('x', outputs='p, p1, p2')} h = Neg(p) t = Exp(h) {training('t', outputs='y, y1, y2')}"
    x = samples(50, 5) / 10
    result, _ = calibrated(model(body, shared, x=X, y="double[N,5] y"), x)
    mean, _, values = normalised(x, shared)
    np.testing.assert_allclose(stored(result, 3)[0], mean)
    np.testing.assert_allclose(stored(result, 3)[1], np.exp(-values).mean(axis=0))
    assert {item.name for item in result.graph.initializer}.isdisjoint({"m", "v"})


def test_a_fixed_batch_that_has_to_be_filled_up_is_left_out() -> None:
    proto = model(
        training("x", outputs="y, m2, v2"), parameters(5, dtype="float64"), x="double[8,5] x", y="double[8,5] y"
    )
    x = samples(30, 5)
    result, report = calibrated(proto, x)
    np.testing.assert_allclose(stored(result, 3)[0], x[:24].mean(axis=0))
    assert report.data is not None
    assert report.data.samples == 24


def test_fewer_samples_than_a_fixed_batch_takes_are_refused() -> None:
    proto = model(
        training("x", outputs="y, m2, v2"), parameters(5, dtype="float64"), x="double[8,5] x", y="double[8,5] y"
    )
    with pytest.raises(BnfoldError, match="the model takes 8 samples at a time, and there are 5"):
        calibrate(proto, samples(5, 5))


def test_bfloat16_and_what_onnxruntime_lacks_run_in_the_reference() -> None:
    tensors = {"w": weight(4, 3, 1, 1, dtype="float64")} | parameters(4, dtype="float64")
    body = f"h = Conv(x, w) {training('h', outputs='y, m2, v2')}"
    x = samples(20, 3, 2, 2)
    result, _ = calibrated(model(body, tensors, x="double[N,3,2,2] x", y="double[N,4,2,2] y"), x)
    conv = np.einsum("nihw,oi->nohw", x, tensors["w"][:, :, 0, 0])
    np.testing.assert_allclose(stored(result, 3)[0], conv.mean(axis=(0, 2, 3)))


def test_an_operator_that_onnx_does_not_know_tells_its_type_when_it_runs() -> None:
    proto = model(f"h = Neg(x) {training('h', outputs='y, m2, v2')}", parameters(5), x="float[N,5] x", y="float[N,5] y")
    proto.graph.node[0].op_type, proto.graph.node[0].domain = "Gelu", "com.microsoft"
    proto.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    x = samples(40, 5, dtype="float32")
    result = calibrate(proto, x).model
    gelu = np.vectorize(lambda value: value * 0.5 * (1 + math.erf(value / math.sqrt(2))))
    np.testing.assert_allclose(stored(result, 3)[0], gelu(x.astype(np.float64)).mean(axis=0), rtol=1e-5)


# What exists already


def test_statistics_that_exist_stay_unless_they_are_to_be_refreshed() -> None:
    tensors = (
        {"w": weight(5, 5, dtype="float64")} | parameters(5, "1", dtype="float64") | parameters(5, "2", dtype="float64")
    )
    body = f"p = {bn('x', '1')} h = MatMul(p, w) {training('h', '2', 'y, y1, y2')}"
    proto = model(body, tensors, x=X, y="double[N,5] y")
    x = samples(60, 5)
    result, report = calibrated(proto, x)
    assert [item.action for item in report.batch_norms] == ["kept", "estimated"]
    np.testing.assert_array_equal(stored(result, 3)[0], tensors["m1"])
    refreshed, again = calibrated(proto, x, refresh=True)
    assert [item.action for item in again.batch_norms] == ["refreshed", "estimated"]
    np.testing.assert_allclose(stored(refreshed, 3)[0], x.mean(axis=0))
    assert again.batch_norms[0].old_mean == tuple(tensors["m1"])
    moved = np.abs(x.mean(axis=0) - tensors["m1"]) / np.sqrt(x.var(axis=0, ddof=1) + 1e-5)
    assert again.batch_norms[0].mean_moved == pytest.approx(moved.max())


def test_nothing_to_do_changes_nothing_and_reads_no_data() -> None:
    proto = model(f"y = {bn('x')}", parameters(3))
    result = calibrate(proto, "no-such-data")
    assert result.model == proto
    assert result.report.calibrated == 0
    assert result.report.data is None


def test_statistics_of_zeros_and_ones_are_said_to_look_untrained_and_stay() -> None:
    tensors = parameters(3) | {"m": np.zeros(3, np.float32), "v": np.ones(3, np.float32)}
    report = calibrate(model(f"y = {bn('x')}", tensors), "no-such-data").report
    assert report.calibrated == 0
    assert "as before any training: --refresh estimates them" in report.batch_norms[0].warnings[0]


def test_a_batch_norm_in_a_branch_is_left_with_its_statistics_when_others_are_refreshed() -> None:
    body = (
        f"p = {bn('x', '1')} y = If(c) <then_branch = t () => (double[N,5] t1) {{ t1 = {bn('p', '2')} }}, "
        "else_branch = e () => (double[N,5] e1) { e1 = Neg(p) }>"
    )
    tensors = parameters(5, "1", dtype="float64") | parameters(5, "2", dtype="float64") | {"c": np.array(True)}  # noqa: FBT003 - data
    _, report = calibrated(
        model(body, tensors, x=X, y="double[N,5] y", opset=16, ir_version=8), samples(40, 5), refresh=True
    )
    assert [(item.action, item.why) for item in report.batch_norms] == [
        ("refreshed", ""),
        ("kept", "it is inside a subgraph"),
    ]


def test_a_default_that_callers_may_replace_stays_an_input() -> None:
    tensors = parameters(5, dtype="float64")
    proto = model(f"y = {bn('x')}", tensors, x=f"{X}, double[5] m", y="double[N,5] y")
    result, _ = calibrated(proto, samples(40, 5), refresh=True)
    assert [value.name for value in result.graph.input] == ["x", "m"]
