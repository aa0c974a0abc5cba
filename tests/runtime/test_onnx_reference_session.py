from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from bnfold.errors import InputError
from bnfold.runtime.onnx_reference import open_session
from bnfold.runtime.session import TensorSpec, numpy_dtype

if TYPE_CHECKING:
    from pathlib import Path


def convolution(dtype: int, *, listed_weights: bool = False, operator: str = "Conv") -> onnx.ModelProto:
    weight = helper.make_tensor("w", dtype, (2, 1, 3, 3), [0.5] * 18)
    inputs = [helper.make_tensor_value_info("x", dtype, ["n", 1, None, 8])]
    if listed_weights:
        inputs.append(helper.make_tensor_value_info("w", dtype, (2, 1, 3, 3)))
    graph = helper.make_graph(
        [helper.make_node(operator, ["x", "w"], ["y"])],
        "one",
        inputs,
        [helper.make_tensor_value_info("y", dtype, None)],
        [weight],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)], ir_version=3 if listed_weights else 10)


@pytest.mark.parametrize("damaged", [b"no model", convolution(1, operator="NoSuchOperator").SerializeToString()])
def test_a_damaged_model_is_an_input_error_in_one_line(damaged: bytes) -> None:
    with pytest.raises(InputError, match=r"^onnx\.reference rejects the model: ") as refusal:
        open_session(damaged)
    assert refusal.value.__cause__ is not None
    assert "\n" not in str(refusal.value)


def test_a_missing_file_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"gone\.onnx"):
        open_session(tmp_path / "gone.onnx")


@pytest.mark.parametrize("feeds", [{}, {"x": np.ones((1, 5), np.float32)}], ids=["missing", "other rank"])
def test_feeds_that_do_not_fit_are_an_input_error(feeds: dict[str, Any]) -> None:
    session = open_session(convolution(TensorProto.FLOAT).SerializeToString())
    with pytest.raises(InputError, match=r"^onnx\.reference fails on the model: "):
        session.run(feeds)


def test_what_is_no_tensor_is_refused() -> None:
    sequence = helper.make_tensor_sequence_value_info("y", TensorProto.FLOAT, None)
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n"])
    graph = helper.make_graph([helper.make_node("SequenceConstruct", ["x"], ["y"])], "one", [x], [sequence])
    with pytest.raises(InputError, match="'y' is no tensor"):
        open_session(helper.make_model(graph).SerializeToString())


@pytest.mark.parametrize(
    ("dtype", "name"),
    [(TensorProto.DOUBLE, "float64"), (TensorProto.BFLOAT16, "bfloat16"), (TensorProto.FLOAT16, "float16")],
)
def test_convolutions_run_in_the_types_that_onnxruntime_lacks(dtype: int, name: str) -> None:
    session = open_session(convolution(dtype).SerializeToString())
    assert session.inputs == (TensorSpec("x", name, ("n", 1, None, 8)),)
    assert session.outputs == (TensorSpec("y", name, None),)
    outputs = session.run({"x": np.ones((2, 1, 8, 8), numpy_dtype(name))})
    assert outputs["y"].dtype == numpy_dtype(name)
    assert (outputs["y"] == 4.5).all()


def test_initializers_that_an_old_model_lists_as_inputs_are_none() -> None:
    session = open_session(convolution(TensorProto.FLOAT, listed_weights=True).SerializeToString())
    assert [spec.name for spec in session.inputs] == ["x"]


def test_nan_and_infinities_come_out_without_a_warning() -> None:
    session = open_session(convolution(TensorProto.FLOAT).SerializeToString())
    x = np.ones((1, 1, 8, 8), np.float32)
    x[0, 0, 0, 0], x[0, 0, 7, 7] = np.inf, np.nan
    y = session.run({"x": x})["y"]
    assert np.isinf(y).any()
    assert np.isnan(y).any()


def test_a_path_and_a_prepared_call_compute_the_same(tmp_path: Path) -> None:
    proto = convolution(TensorProto.FLOAT)
    onnx.save(proto, tmp_path / "m.onnx")
    feeds = {"x": np.linspace(-1, 1, 64, dtype=np.float32).reshape(1, 1, 8, 8)}
    expected = open_session(proto.SerializeToString()).run(feeds)["y"]
    result = open_session(tmp_path / "m.onnx").prepare(feeds)()
    assert isinstance(result, list)
    assert np.array_equal(result[0], expected)
