from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from bnfold.errors import InputError
from bnfold.runtime.ort import open_session
from bnfold.runtime.session import NoKernelError, TensorSpec

if TYPE_CHECKING:
    from pathlib import Path

FLOAT = TensorProto.FLOAT


def model(
    operator: str = "Relu", dtype: int = FLOAT, opset: int = 22, shape: Any = ("n", 1, 8, 8), **weights: Any
) -> bytes:
    """x → operator(x, *weights) → y."""
    tensors = [helper.make_tensor(name, dtype, value.shape, value.ravel().tolist()) for name, value in weights.items()]
    graph = helper.make_graph(
        [helper.make_node(operator, ["x", *weights], ["y"])],
        "one",
        [helper.make_tensor_value_info("x", dtype, shape)],
        [helper.make_tensor_value_info("y", dtype, None)],
        tensors,
    )
    return serialised(graph, opset)


def serialised(graph: onnx.GraphProto, opset: int = 22) -> bytes:
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    return bytes(proto.SerializeToString())


KERNEL = np.ones((2, 1, 3, 3), np.float32)


@pytest.mark.parametrize(
    "damaged",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"no model at all", id="garbage"),
        pytest.param(model()[:40], id="cut"),
        pytest.param(model("NoSuchOperator"), id="unknown operator"),
        pytest.param(model("Relu", shape=("n",))[:-6], id="cut at the end"),
    ],
)
@pytest.mark.parametrize("optimise", [True, False])
def test_a_damaged_model_is_an_input_error_in_one_line_and_silent(
    damaged: bytes,
    optimise: bool,  # noqa: FBT001 - a table's column
    capfd: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(InputError, match=r"^onnxruntime rejects the model: ") as refusal:
        open_session(damaged, optimise=optimise)
    assert refusal.value.__cause__ is not None
    assert refusal.value.exit_code == 3
    assert "\n" not in str(refusal.value)
    assert capfd.readouterr() == ("", "")


def test_a_missing_file_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"gone\.onnx"):
        open_session(tmp_path / "gone.onnx", optimise=False)


@pytest.mark.parametrize(
    "unsupported",
    [
        pytest.param(model("Conv", TensorProto.DOUBLE, w=KERNEL), id="Conv in float64"),
        pytest.param(model("Conv", TensorProto.BFLOAT16, w=KERNEL), id="Conv in bfloat16"),
        pytest.param(model("Conv", TensorProto.BFLOAT16, opset=18, w=KERNEL), id="Conv in bfloat16, before opset 22"),
        pytest.param(model("Identity", TensorProto.BFLOAT16), id="bfloat16 outside"),
    ],
)
def test_a_missing_kernel_is_told_apart_from_a_bad_model(unsupported: bytes) -> None:
    with pytest.raises(NoKernelError):
        open_session(unsupported, optimise=False)


def test_outputs_that_are_no_tensors_are_refused() -> None:
    sequence = helper.make_tensor_sequence_value_info("y", FLOAT, None)
    node = helper.make_node("SequenceConstruct", ["x"], ["y"])
    graph = helper.make_graph([node], "one", [helper.make_tensor_value_info("x", FLOAT, ["n"])], [sequence])
    with pytest.raises(InputError, match=r"'y' is of type seq\(tensor\(float\)\)"):
        open_session(serialised(graph), optimise=False)


@pytest.mark.parametrize(
    "feeds",
    [
        pytest.param({}, id="missing"),
        pytest.param({"x": np.ones((1, 1, 8, 8))}, id="other type"),
        pytest.param({"x": np.ones((1, 1, 9, 9), np.float32)}, id="other size"),
        pytest.param({"x": np.ones((1, 1, 8, 8), np.float32), "z": np.ones(1)}, id="unknown name"),
    ],
)
def test_feeds_that_do_not_fit_are_an_input_error_and_silent(
    feeds: dict[str, Any], capfd: pytest.CaptureFixture[str]
) -> None:
    session = open_session(model(), optimise=False)
    with pytest.raises(InputError, match=r"^onnxruntime fails on the model's inputs: "):
        session.run(feeds)
    assert capfd.readouterr() == ("", "")


def test_the_error_says_which_size_is_wrong() -> None:
    with pytest.raises(InputError, match=r"inputs: Got invalid dimensions for input: x .* Got: 9 Expected: 8"):
        open_session(model(), optimise=False).run({"x": np.ones((1, 1, 9, 8), np.float32)})


def test_onnxruntimes_warnings_reach_nobody(capfd: pytest.CaptureFixture[str]) -> None:
    session = open_session(wrong_about_its_shape(), optimise=True)
    session.run({"x": np.ones((1, 1, 8, 8), np.float32)})
    assert capfd.readouterr() == ("", "")


def test_that_model_does_make_onnxruntime_warn(capfd: pytest.CaptureFixture[str]) -> None:
    session = onnxruntime.InferenceSession(wrong_about_its_shape())
    session.run(None, {"x": np.ones((1, 1, 8, 8), np.float32)})
    assert "does not match" in capfd.readouterr().err


def wrong_about_its_shape() -> bytes:
    proto = onnx.load_model_from_string(model())
    proto.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", FLOAT, [2, 2, "a", "b"]))
    proto.graph.input[0].CopyFrom(helper.make_tensor_value_info("x", FLOAT, ["n", "c", "h", "w"]))
    return bytes(proto.SerializeToString())


def test_shapes_and_types_come_as_the_model_says() -> None:
    session = open_session(model(shape=("n", None, 8, 8)), optimise=False)
    assert session.inputs == (TensorSpec("x", "float32", ("n", None, 8, 8)),)
    assert [spec.dtype for spec in session.outputs] == ["float32"]


def test_outputs_come_by_name_in_the_models_order() -> None:
    x = helper.make_tensor_value_info("x", FLOAT, ["n"])
    nodes = [helper.make_node("Neg", ["x"], ["b"]), helper.make_node("Abs", ["x"], ["a"])]
    outputs = [helper.make_tensor_value_info(name, FLOAT, ["n"]) for name in ("b", "a")]
    session = open_session(serialised(helper.make_graph(nodes, "two", [x], outputs)), optimise=False)
    results = session.run({"x": np.array([-2], np.float32)})
    assert {name: array.tolist() for name, array in results.items()} == {"b": [2], "a": [2]}
    assert list(results) == ["b", "a"]


@pytest.mark.parametrize(
    ("dtype", "expected"), [(TensorProto.STRING, "str"), (TensorProto.BOOL, "bool"), (TensorProto.INT64, "int64")]
)
def test_other_types_than_floats_pass_through(dtype: int, expected: str) -> None:
    session = open_session(model("Identity", dtype, shape=("n",)), optimise=False)
    assert session.inputs[0].dtype == expected
    values = np.array(["1", ""], dtype=object) if expected == "str" else np.array([1, 0], expected)
    assert session.run({"x": values})["y"].tolist() == values.tolist()


@pytest.mark.parametrize(
    ("optimise", "level", "label"),
    [
        (False, onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL, "onnxruntime, optimisations off"),
        (True, onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL, "onnxruntime, default optimisations"),
    ],
)
def test_the_level_is_what_was_asked_for_and_the_label_says_it(optimise: bool, level: Any, label: str) -> None:  # noqa: FBT001 - a table's column
    session = open_session(model(), optimise=optimise)
    assert session._session.get_session_options().graph_optimization_level == level
    assert session.label == label


def test_threads_are_bounded_on_request() -> None:
    session = open_session(model(), optimise=True, threads=1)
    assert session._session.get_session_options().intra_op_num_threads == 1


def test_a_path_brings_its_external_data(tmp_path: Path) -> None:
    proto = onnx.load_model_from_string(model("Conv"))
    proto.graph.node[0].input.append("w")
    proto.graph.initializer.append(numpy_helper.from_array(KERNEL, "w"))
    path = tmp_path / "big.onnx"
    onnx.save(proto, path, save_as_external_data=True, location="big.data", size_threshold=0)
    session = open_session(path, optimise=False)
    assert session.run({"x": np.ones((1, 1, 8, 8), np.float32)})["y"].max() == 9


def test_a_prepared_call_computes_the_same() -> None:
    session = open_session(model(), optimise=True)
    feeds = {"x": np.linspace(-1, 1, 64, dtype=np.float32).reshape(1, 1, 8, 8)}
    result = session.prepare(feeds)()
    assert isinstance(result, list)
    assert np.array_equal(result[0], session.run(feeds)["y"])
