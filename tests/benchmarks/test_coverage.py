from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from coverage import Outcome, Result, graph_of, is_close, judged, remark, row
from onnx import ModelProto, helper, numpy_helper, parser

TEXT = """<ir_version: 10, opset_import: ["" : 20]> g (float[1,2,4,4] x) => (float[1,2,4,4] y) {
    c = Conv(x, w) y = BatchNormalization(c, s, t, t, s)
}"""


@pytest.fixture(autouse=True)
def _graphs_in_the_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(Path(__file__).parents[1] / "formats"), *sys.path])


@pytest.fixture
def model() -> ModelProto:
    proto = parser.parse_model(TEXT)
    tensors = {
        "w": np.ones((2, 2, 1, 1), np.float32),
        "s": np.array([2, 3], np.float32),
        "t": np.array([1, 4], np.float32),
    }
    proto.graph.initializer.extend(numpy_helper.from_array(values, name) for name, values in tensors.items())
    return proto


def test_outputs_that_differ_by_more_than_rounding_are_not_close() -> None:
    ones = np.ones(3, np.float32)
    assert is_close(ones, ones + np.float32(1e-5))
    assert not is_close(ones, ones + np.float32(1e-3))
    assert not is_close(ones, ones.astype(np.float64))
    assert not is_close(ones, ones[:1])
    assert not is_close(ones, ones * np.float32(np.nan))
    assert is_close(ones * np.float32(np.nan), ones * np.float32(np.nan))


def test_what_computes_something_else_is_wrong(model: ModelProto, tmp_path: Path) -> None:
    spoilt = ModelProto()
    spoilt.CopyFrom(model)
    spoilt.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.full((2, 2, 1, 1), 2, np.float32), "w"))
    onnx.save(spoilt, tmp_path / "spoilt.onnx")
    onnx.save(model, tmp_path / "same.onnx")
    assert judged(model, tmp_path / "spoilt.onnx") is Outcome.WRONG
    assert judged(model, tmp_path / "same.onnx") is Outcome.SAME


def test_what_the_checker_rejects_is_no_model(model: ModelProto, tmp_path: Path) -> None:
    broken = ModelProto()
    broken.CopyFrom(model)
    broken.graph.node.append(helper.make_node("Relu", ["nowhere"], ["z"]))
    onnx.save(broken, tmp_path / "broken.onnx")
    with pytest.raises(onnx.checker.ValidationError):
        judged(model, tmp_path / "broken.onnx")


@pytest.mark.parametrize(
    ("verdict", "agrees"),
    [(["c"], True), (["fan-out"], False), ([{"y": "c"}], True), ([({"y": "fan-out"}, "Conv")], False), ([1], True)],
    ids=str,
)
def test_a_table_that_says_otherwise_is_noticed(model: ModelProto, verdict: list[object], *, agrees: bool) -> None:
    graph = graph_of("it", model, verdict)
    assert (graph.found, graph.removable, graph.is_as_the_table_says) == (1, 1, agrees)


def test_a_batch_norm_counts_where_the_network_is_the_same(model: ModelProto) -> None:
    graph = graph_of("it", model, ["c"])
    results = [Result(Outcome.SAME, 0), Result(Outcome.SAME, 1), Result(Outcome.WRONG), Result(Outcome.CRASHED)]
    assert row("tool", [graph] * 4, results) == ("tool", "1 of 4", "0", "1", "0", "1")
    assert [remark(graph, result) for result in results] == ["", "", "wrong: it", "crashed: it"]
