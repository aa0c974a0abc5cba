"""Arguments that cannot be, as an engineer might write them in Python: each is told in words, before any work."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import ModelProto, numpy_helper, parser
from torch import nn

import bnfold
from bnfold.errors import BnfoldError, UsageError


def network() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)).eval()


def proto() -> ModelProto:
    """x (N, 3, L) → batch norm over 3 channels → y."""
    model = parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 15]> g (float[N,3,L] x) => (float[N,3,L] y) '
        "{ y = BatchNormalization(x, g, b, m, v) }"
    )
    for name, value in zip("gbmv", (1, 0, 0, 1), strict=True):
        model.graph.initializer.append(numpy_helper.from_array(np.full(3, value, np.float32), name))
    return model


@pytest.fixture(autouse=True)
def _files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``m.onnx`` and the state_dict ``net.pt`` in an own folder."""
    onnx.save(proto(), tmp_path / "m.onnx")
    torch.save(network().state_dict(), tmp_path / "net.pt")
    monkeypatch.chdir(tmp_path)


ONE, TWO = ("m.onnx",), ("m.onnx", "m.onnx")
PATH = "expected the path of a file"
DATA = "expected 'random', 'mnist', or the path of an .npz file or a directory"
SIZE = "expected a whole number from 1 on"
TOLERANCE = "expected a finite number from 0 on, or a dict of such by output"

WRONG: dict[str, tuple[str, tuple[Any, ...], dict[str, Any], str]] = {
    "a module to convert": ("convert", (network(),), {}, f"source=<Sequential>: {PATH}"),
    "a proto to inspect": ("inspect", (proto(),), {}, f"source=<ModelProto>: {PATH}"),
    "modules to verify": ("verify", (network(), network()), {}, f"original=<Sequential>: {PATH}"),
    "a third module to time": ("bench", (*TWO, network()), {}, f"path=<Sequential>: {PATH}"),
    "a module as the output": ("convert", (*ONE, network()), {}, f"output=<Sequential>: {PATH}"),
    "verify=True": ("convert", ONE, {"verify": True}, f"verify=True: {DATA}"),
    "an array to verify on": ("verify", TWO, {"data": np.ones(3)}, f"data=<ndarray>: {DATA}"),
    "no data": ("verify", TWO, {"data": None}, f"data=None: {DATA}"),
    "a number of a batch norm": ("convert", ONE, {"only": 3}, "only=3: expected a glob"),
    "a function of names": ("fold", ONE, {"skip": str.isupper}, "skip=<method_descriptor>: expected a glob"),
    "another kind of file": ("convert", ONE, {"to": "tflite"}, "to='tflite': expected 'onnx' or 'pt'"),
    "require_fold=True": ("convert", ONE, {"require_fold": True}, "require_fold=True: expected 'any' or 'all'"),
    "pairs in one text": ("convert", ("net.pt",), {"pairs": "0=1"}, "pairs='0=1': expected a list of pairs"),
    "pairs of pairs": ("convert", ("net.pt",), {"pairs": [("0", "1")]}, "expected a list of pairs: ['conv1=bn1']"),
    "an ε below zero": ("convert", ("net.pt",), {"pairs": ["0=1"], "eps": -1.0}, "eps=-1.0: expected a finite number"),
    "a module as its factory": ("inspect", ("net.pt",), {"factory": network()}, "factory=<Sequential>: expected what"),
    "text for a switch": ("inspect", ("net.pt",), {"trust_code": "False"}, "trust_code='False': expected True or"),
    "text as a tolerance": ("verify", TWO, {"rtol": "1e-5"}, f"rtol='1e-5': {TOLERANCE}"),
    "a tolerance below zero": ("verify", TWO, {"atol": -1}, f"atol=-1: {TOLERANCE}"),
    "a tolerance that is no number": ("verify", TWO, {"rtol": float("nan")}, f"rtol=nan: {TOLERANCE}"),
    "tolerances in a list": ("verify", TWO, {"rtol": [1e-5]}, f"rtol=[1e-05]: {TOLERANCE}"),
    "text in a dict of tolerances": ("verify", TWO, {"atol": {"y": "small"}}, TOLERANCE),
    "samples below zero": ("verify", TWO, {"samples": -1}, f"samples=-1: {SIZE}"),
    "half a sample": ("verify", TWO, {"samples": 10.5}, f"samples=10.5: {SIZE}"),
    "samples in a text": ("calibrate", (*ONE, np.ones(3)), {"samples": "10"}, f"samples='10': {SIZE}"),
    "True samples": ("verify", TWO, {"batch": True}, f"batch=True: {SIZE}"),
    "a seed below zero": ("verify", TWO, {"seed": -1}, "seed=-1: expected a whole number from 0 on"),
    "flips below zero": ("verify", TWO, {"max_flips": -1}, "max_flips=-1: expected a whole number from 0 on"),
    "a loss in percent": (
        "verify",
        TWO,
        {"max_accuracy_drop": 5},
        "max_accuracy_drop=5: expected a number from 0 to 1",
    ),
    "a deviation below zero": ("verify", TWO, {"std": -1}, "std=-1: expected a finite number above 0"),
    "a mean by channel": ("verify", TWO, {"mean": [0.1, 0.2]}, "mean=[0.1, 0.2]: expected a finite number"),
    "progress=True": ("verify", TWO, {"progress": True}, "progress=True: expected a function"),
    "no batches": ("bench", TWO, {"batch": []}, f"batch=[]: {SIZE}, or a list of such"),
    "batches in a text": ("bench", TWO, {"batch": "1,32"}, f"batch='1,32': {SIZE}, or a list of such"),
    "no runtimes": ("bench", TWO, {"runtime": []}, "runtime=[]: expected the name of a runtime"),
    "no threads": ("bench", TWO, {"threads": 0}, "threads=0: expected a whole number from 1 to 1024"),
    "time without end": ("bench", TWO, {"min_seconds": float("inf")}, "min_seconds=inf: expected a finite number"),
    "percents in a text": ("bench", TWO, {"fail_if_slower": "5"}, "fail_if_slower='5': expected a finite number"),
    "a state_dict as a path": ("load_folded", (network(), network().state_dict()), {}, "path=<OrderedDict>"),
    "path and module changed round": ("load_folded", ("net.pt", network()), {}, "load_folded(MyNet(), PATH)"),
    "a NumPy array as inputs": ("fold", (network(), np.ones((2, 3), np.float32)), {}, "torch.from_numpy(array)"),
    "NumPy arrays by name": ("fold", (network(), {"input": np.ones((2, 3))}), {}, "torch.from_numpy(array)"),
    "a shape as inputs": ("fold", (network(), (1, 3)), {}, "torch.zeros(1, 3, 224, 224)"),
    "a class as a model": ("fold", (nn.Linear,), {}, "the class Linear is no model"),
    "a state_dict as a model": ("fold", (network().state_dict(),), {}, "give the module whose state_dict it is"),
}


@pytest.mark.parametrize(("function", "positional", "options", "said"), WRONG.values(), ids=WRONG)
def test_is_told_in_words(function: str, positional: tuple[Any, ...], options: dict[str, Any], said: str) -> None:
    before = sorted(Path().iterdir())
    with pytest.raises(UsageError) as caught:
        getattr(bnfold, function)(*positional, **options)
    assert said in str(caught.value)
    assert len(str(caught.value).splitlines()) <= 3
    assert sorted(Path().iterdir()) == before


def test_a_factory_that_fails_is_named_in_one_line() -> None:
    def needs_more(_channels: int) -> nn.Module:
        return network()

    with pytest.raises(BnfoldError) as caught:
        bnfold.inspect("net.pt", factory=needs_more)  # type: ignore[arg-type]
    assert caught.value.where.endswith("needs_more")


def test_numpys_numbers_are_numbers() -> None:
    options: dict[str, Any] = {"samples": np.int64(4), "rtol": np.float32(1e-3), "inputs": torch.ones(1, 3, 5)}
    assert bnfold.verify("m.onnx", "m.onnx", **options).passed


@pytest.mark.parametrize(
    "inputs",
    [torch.ones(1, 3, 5), (torch.ones(1, 3, 5),), {"x": torch.ones(1, 3, 5)}, [torch.ones(1, 3, 5)]],
    ids=["tensor", "tuple", "dict", "list"],
)
def test_an_example_tells_the_sizes_that_an_onnx_model_leaves_open(inputs: Any) -> None:
    with pytest.raises(UsageError, match="not every size of input 'x' is known"):
        bnfold.verify("m.onnx", "m.onnx")
    assert bnfold.verify("m.onnx", "m.onnx", inputs=inputs).passed


def test_one_batch_size_may_stand_alone() -> None:
    report = bnfold.bench(*TWO, batch=2, runtime="ort", min_seconds=0, inputs=torch.ones(1, 3, 5))
    assert [case.batch for case in report.cases] == [2]
