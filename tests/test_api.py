"""The public names of ``bnfold``, used as a program would; what they promise whatever the model."""

from __future__ import annotations

import copy
import json
import math
import subprocess
import sys
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import pytest
import torch
from jsonschema import Draft202012Validator
from onnx import ModelProto, TensorProto, helper, numpy_helper
from torch import nn

import bnfold
from bnfold import api
from bnfold.cli.entry import run
from bnfold.errors import BnfoldError, CheckFailedError, InputError, OutputError, RequirementError, UsageError
from bnfold.records import BenchReport, ConvertReport, InspectReport, Report, VerifyReport
from bnfold.runtime.session import Session
from bnfold.sessions import Models

IMAGE = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(8))
SCHEMA = Path(bnfold.__file__).parent / "report.schema.json"


def network(channels: int = 4) -> nn.Module:
    """Conv and batch norm, twice, with a ReLU between."""
    torch.manual_seed(21)
    module = nn.Sequential(
        *(nn.Conv2d(3, channels, 3), nn.BatchNorm2d(channels), nn.ReLU()),
        *(nn.Conv2d(channels, channels, 3, bias=False), nn.BatchNorm2d(channels)),
    )
    parts: list[Any] = [module[1], module[4]]
    for part in parts:
        nn.init.uniform_(part.weight, 0.5, 2)
        nn.init.normal_(part.bias)
        part.running_mean.normal_()
        part.running_var.uniform_(0.3, 2)
    return module.eval()


def conv_bn(*, second: bool = False, epsilon: float = 1e-3) -> ModelProto:
    """x → Conv → BatchNormalization ``bn`` → Relu (→ BatchNormalization ``late``) → y."""
    rng = np.random.default_rng(5)

    def stored(name: str, values: Any) -> TensorProto:
        return numpy_helper.from_array(np.asarray(values, np.float32), name)

    tensors = [stored("w", rng.normal(size=(4, 3, 3, 3))), stored("k", rng.normal(size=4))]
    tensors += [stored(name, rng.uniform(0.2, 2, 4)) for name in "gbmv"]
    last = "h" if second else "y"
    nodes = [
        helper.make_node("Conv", ["x", "w", "k"], ["c"], name="conv"),
        helper.make_node("BatchNormalization", ["c", "g", "b", "m", "v"], ["n"], name="bn", epsilon=epsilon),
        helper.make_node("Relu", ["n"], [last]),
    ]
    if second:
        nodes += [helper.make_node("BatchNormalization", ["h", "g", "b", "m", "v"], ["y"], name="late")]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 6, 6])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 4, 4, 4])],
        tensors,
    )
    return helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 20)])


@pytest.fixture
def model(tmp_path: Path) -> Path:
    onnx.save(conv_bn(second=True), tmp_path / "model.onnx")
    return tmp_path / "model.onnx"


# Names.


def test_the_public_names_are_these_and_resolve_to_what_they_say() -> None:
    assert sorted(bnfold.__all__) == sorted(dir(bnfold))
    assert set(bnfold.__all__) == {
        *("fold", "convert", "inspect", "verify", "bench", "calibrate", "load_folded"),
        *("Reason", "BnfoldError", "__version__"),
    }
    for name in bnfold.__all__:
        assert getattr(bnfold, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'unfold'"):
        bnfold.unfold  # noqa: B018 - the access is the test


def test_reasons_are_public() -> None:
    assert bnfold.Reason.FAN_OUT.code == "BNF202"
    assert "batch norm" in bnfold.Reason.FAN_OUT.remedy


# fold.


def test_a_module_gives_a_module_and_a_plan_in_graph_order() -> None:
    module = network()
    before = copy.deepcopy(module.state_dict())
    result = bnfold.fold(module, IMAGE)
    assert [verdict.bn.label for verdict in result.plan] == ["1", "4"]
    assert [type(part).__name__ for part in result.model] == ["Conv2d", "Identity", "ReLU", "Conv2d", "Identity"]
    assert all(torch.equal(before[name], tensor) for name, tensor in module.state_dict().items())
    assert torch.allclose(result.model(IMAGE), module(IMAGE), atol=1e-5)


def test_a_model_proto_gives_a_model_proto_and_is_not_changed() -> None:
    proto = conv_bn()
    before = proto.SerializeToString(deterministic=True)
    result = bnfold.fold(proto)
    assert proto.SerializeToString(deterministic=True) == before
    assert [node.op_type for node in result.model.graph.node] == ["Conv", "Relu"]
    onnx.checker.check_model(result.model, full_check=True)


def test_a_path_gives_what_its_file_holds(model: Path, tmp_path: Path) -> None:
    content = model.read_bytes()
    assert isinstance(bnfold.fold(model).model, ModelProto)
    assert isinstance(bnfold.fold(str(model)).model, ModelProto)
    assert model.read_bytes() == content
    torch.save(network().state_dict(), tmp_path / "net.pt")
    assert isinstance(bnfold.fold(tmp_path / "net.pt", IMAGE, factory=network).model, nn.Module)
    torch.save(network(), tmp_path / "module.pt")
    assert isinstance(bnfold.fold(tmp_path / "module.pt", (IMAGE,), trust_code=True).model, nn.Module)


class ByKeyword(nn.Module):
    """A network that wants its inputs by name."""

    def __init__(self) -> None:
        super().__init__()
        self.net = network()

    def forward(self, *, image: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        return self.net(image) * scale  # type: ignore[no-any-return]


def test_inputs_are_a_tensor_a_tuple_or_a_dict() -> None:
    for inputs in (IMAGE, (IMAGE,), [IMAGE], {"input": IMAGE}, None):
        module = nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4)).eval() if inputs is None else network()
        assert all(bnfold.fold(module, inputs).plan.folds)
    result = bnfold.fold(ByKeyword().eval(), {"image": IMAGE, "scale": torch.ones(1)})
    assert len(result.plan.folds) == 2


@pytest.mark.parametrize("names", ["4", ["4"], ("4",)], ids=["text", "list", "tuple"])
def test_only_and_skip_take_one_glob_or_several(names: Any) -> None:
    assert [fold.bn.label for fold in bnfold.fold(network(), IMAGE, only=names).plan.folds] == ["4"]
    assert [fold.bn.label for fold in bnfold.fold(network(), IMAGE, skip=names).plan.folds] == ["1"]


def test_a_glob_that_fits_no_batch_norm_is_said(model: Path) -> None:
    assert bnfold.inspect(model, skip="b*").warnings == ()
    (warning,) = bnfold.inspect(model, skip=["bn", "nb*"]).warnings
    assert warning.startswith("--skip 'nb*' fits the name of no batch norm")
    (warning,) = bnfold.fold(network(), IMAGE, only="0").warnings
    assert warning.startswith("--only '0' fits")


@pytest.mark.parametrize(
    ("model", "options", "error"),
    [
        (42, {}, UsageError),
        (nn.Linear, {}, UsageError),
        (None, {}, UsageError),
        ("no such file.onnx", {}, InputError),
        (Path(), {}, InputError),
        (network(), {"inputs": torch.zeros(2, 5, 6, 6)}, UsageError),
        (network(), {"inputs": "an image"}, UsageError),
        (network(), {"inputs": [IMAGE, 3]}, UsageError),
        (network(), {"inputs": {"x": IMAGE}}, UsageError),
        (nn.Sequential(nn.ReLU(), nn.BatchNorm2d(3)).eval(), {}, UsageError),
    ],
    ids=lambda value: type(value).__name__,
)
def test_whatever_is_wrong_is_one_of_our_errors(model: Any, options: dict[str, Any], error: type[BnfoldError]) -> None:
    with pytest.raises(error) as caught:
        bnfold.fold(model, **options)
    assert 1 <= len(str(caught.value).splitlines()) <= 3


# inspect, convert, load_folded.


def test_inspect_says_what_convert_does_and_writes_nothing(model: Path) -> None:
    inspected = bnfold.inspect(model)
    assert isinstance(inspected, InspectReport)
    assert [path.name for path in model.parent.iterdir()] == [model.name]
    converted = bnfold.convert(model)
    assert isinstance(converted, ConvertReport)
    assert converted.batch_norms == inspected.batch_norms
    assert (inspected.found, inspected.folded, inspected.kept) == (2, 1, 1)
    assert api.default_output(model) == model.with_name("model.folded.onnx")
    assert converted.output is not None
    assert Path(converted.output.path) == model.with_name("model.folded.onnx")


def test_the_source_and_what_was_done_stand_in_the_metadata(model: Path, tmp_path: Path) -> None:
    report = bnfold.convert(model, tmp_path / "out.onnx")
    metadata = {item.key: item.value for item in onnx.load(tmp_path / "out.onnx").metadata_props}
    assert metadata == {
        "bnfold.version": bnfold.__version__,
        "bnfold.source_sha256": report.source.sha256,
        "bnfold.folded": "1",
    }
    again = bnfold.convert(tmp_path / "out.onnx", tmp_path / "again.onnx")
    assert (again.found, again.folded) == (1, 0)
    assert (tmp_path / "again.onnx").read_bytes() == (tmp_path / "out.onnx").read_bytes()


def test_an_output_that_is_named_like_another_kind_is_refused(model: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="would not be what its name says"):
        bnfold.convert(model, tmp_path / "net.pt")
    assert not (tmp_path / "net.pt").exists()


def test_a_run_of_convert_that_writes_nothing(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.onnx"
    assert bnfold.convert(model, out, dry_run=True).output is None
    with pytest.raises(CheckFailedError, match="does not exist") as missing:
        bnfold.convert(model, out, check=True)
    assert isinstance(missing.value.report, ConvertReport)
    assert missing.value.report.unmet == f"{out} does not exist"
    wishes: tuple[Literal["all", "any"], ...] = ("all", "any")
    for wanted in wishes:
        with pytest.raises(RequirementError, match="is not met") as refused:
            bnfold.convert(model, out, require_fold=wanted, skip="bn")
        assert isinstance(refused.value.report, ConvertReport)
        assert refused.value.report.unmet == refused.value.what
    assert not out.exists()
    bnfold.convert(model, out, require_fold="any")
    bnfold.convert(model, out, check=True)
    with pytest.raises(OutputError, match="exists"):
        bnfold.convert(model, out)
    bnfold.convert(model, out, force=True)


@pytest.mark.parametrize(
    ("options", "warnings"),
    [
        pytest.param(
            {"dry_run": True, "bench": True}, ["--bench was not run: nothing is written"], id="dry run, bench"
        ),
        pytest.param({"dry_run": True, "verify": "random"}, [], id="a dry run verifies"),
        pytest.param(
            {"check": True, "bench": True, "verify": "random"},
            ["--verify was not run: --check compares bytes alone", "--bench was not run: nothing is written"],
            id="check",
        ),
    ],
)
def test_a_trial_that_is_not_made_is_said(
    model: Path, tmp_path: Path, options: dict[str, Any], warnings: list[str]
) -> None:
    bnfold.convert(model, tmp_path / "out.onnx")
    assert list(bnfold.convert(model, tmp_path / "out.onnx", **options).warnings) == warnings


def test_what_fails_verification_is_not_put_in_place(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bnfold.formats.onnx.model import OnnxModel

    def spoilt(self: OnnxModel, plan: Any) -> None:
        folding(self, plan)
        tensor = self._new["k_folded"]
        self._new["k_folded"] = replace(
            tensor, compute=lambda: (piece * np.float32(1.01) for piece in tensor.compute())
        )

    folding = OnnxModel.apply
    monkeypatch.setattr(OnnxModel, "apply", spoilt)
    out = tmp_path / "out.onnx"
    with pytest.raises(CheckFailedError, match="differs") as caught:
        bnfold.convert(model, out, verify="random")
    report = caught.value.report
    assert isinstance(report, ConvertReport)
    assert report.verification is not None
    assert not report.verification.passed
    assert not out.exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.onnx"]


def test_convert_verifies_and_times_on_request(model: Path, tmp_path: Path) -> None:
    report = bnfold.convert(model, tmp_path / "out.onnx", verify="random")
    assert report.verification is not None
    assert report.verification.passed
    assert report.timing is None


def test_load_folded_gives_the_module_that_it_was_given(tmp_path: Path) -> None:
    torch.save(network().state_dict(), tmp_path / "net.pt")
    bnfold.convert(tmp_path / "net.pt", tmp_path / "folded.pt", factory=network, inputs=IMAGE)
    fresh = network()
    for parameter in fresh.parameters():
        nn.init.zeros_(parameter)
    assert bnfold.load_folded(fresh, tmp_path / "folded.pt") is fresh
    assert torch.allclose(fresh(IMAGE), network()(IMAGE), atol=1e-5)


# verify and bench.


def changed(proto: ModelProto, name: str, change: Any) -> ModelProto:
    """A copy with one tensor changed in place."""
    result = ModelProto()
    result.CopyFrom(proto)
    item = next(item for item in result.graph.initializer if item.name == name)
    values = numpy_helper.to_array(item).copy()
    change(values)
    item.CopyFrom(numpy_helper.from_array(values, name))
    return result


def one_channel(values: Any) -> None:
    values[2] *= np.float32(1.01)


def one_nan(values: Any) -> None:
    values[1] = math.nan


DAMAGED: dict[str, Callable[[ModelProto], ModelProto]] = {
    "one channel by 1 %": lambda folded: changed(folded, "w_folded", one_channel),
    "one NaN": lambda folded: changed(folded, "k_folded", one_nan),
    "a forgotten ε": lambda _: bnfold.fold(conv_bn(epsilon=0.0)).model,
}


@pytest.mark.parametrize("how", DAMAGED)
def test_a_damaged_fold_fails_verification_in_api_and_command(
    tmp_path: Path, how: str, capsys: pytest.CaptureFixture[str]
) -> None:
    original, folded = tmp_path / "original.onnx", tmp_path / "folded.onnx"
    onnx.save(conv_bn(), original)
    onnx.save(DAMAGED[how](bnfold.fold(conv_bn()).model), folded)
    report = bnfold.verify(original, folded)
    assert isinstance(report, VerifyReport)
    assert not report.passed
    assert run(["verify", str(original), str(folded)]) == 1
    assert "FAIL" in capsys.readouterr().out
    bnfold.convert(original, folded, force=True)
    assert run(["verify", str(original), str(folded)]) == 0


def test_a_tolerance_is_for_all_outputs_or_by_name(model: Path) -> None:
    assert bnfold.verify(model, model, rtol=0.0, atol=0.0).passed
    assert bnfold.verify(model, model, rtol={"y": 1e-6}).passed
    with pytest.raises(UsageError, match="'z'"):
        bnfold.verify(model, model, rtol={"z": 1e-6})


def test_bench_reports_raw_samples_of_every_case(model: Path, tmp_path: Path) -> None:
    bnfold.convert(model, tmp_path / "out.onnx")
    report = bnfold.bench(model, tmp_path / "out.onnx", batch=[1], min_seconds=0.01, threads=1)
    assert isinstance(report, BenchReport)
    assert len(report.cases) == 2
    assert all(timing.samples_ms for case in report.cases for timing in case.timings)


def test_bench_lets_one_runtimes_sessions_go_before_it_opens_the_next_ones(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each may hold a copy of all weights."""
    opened: list[weakref.ref[Session]] = []
    open_sessions = Models.timed

    def observed(models: Models, runtime: str, threads: int | None) -> list[Session]:
        assert all(reference() is None for reference in opened)
        sessions = open_sessions(models, runtime, threads)
        opened.extend(map(weakref.ref, sessions))
        return sessions

    monkeypatch.setattr(Models, "timed", observed)
    bnfold.bench(model, model, batch=[1], min_seconds=0, threads=1)
    assert len(opened) == 4


def test_every_report_is_valid_json_of_the_schema_that_ships(model: Path, tmp_path: Path) -> None:
    validator = Draft202012Validator(json.loads(SCHEMA.read_text(encoding="utf-8")))
    out = tmp_path / "out.onnx"
    reports: list[Report] = [
        bnfold.inspect(model),
        bnfold.convert(model, out, verify="random"),
        bnfold.verify(model, out),
        bnfold.bench(model, out, batch=[1], runtime="ort", min_seconds=0.01),
    ]
    for report in reports:
        document = json.loads(report.to_json())
        validator.validate(document)
        assert document["schema"] == "bnfold.report/1"
    assert [report.command for report in reports] == ["inspect", "convert", "verify", "bench"]  # type: ignore[attr-defined]


# Without the packages of an extra.

BLOCKED = """
import sys
for name in sys.argv[1].split(","):
    sys.modules[name] = None  # import raises ModuleNotFoundError
from bnfold.cli.entry import run
sys.exit(run(sys.argv[2:]))
"""


def without(packages: str, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", "-c", BLOCKED, packages, *words]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)  # noqa: S603 - our script


def test_onnx_needs_no_torch_from_one_end_to_the_other(model: Path) -> None:
    blocked = "torch,safetensors,onnxscript,transformers"
    outcome = without(blocked, model.parent, "convert", model.name, "--verify", "--require-fold", "--format", "json")
    assert (outcome.returncode, outcome.stderr) == (0, "")
    report = json.loads(outcome.stdout)
    assert (report["folded"], report["verification"]["passed"]) == (1, True)


@pytest.mark.parametrize(("package", "suffix"), [("torch", ".pt"), ("safetensors", ".safetensors")])
def test_a_missing_package_is_named_with_what_installs_it(tmp_path: Path, package: str, suffix: str) -> None:
    from safetensors.torch import save_file

    state = network().state_dict()
    torch.save(state, tmp_path / "net.pt")
    save_file(state, tmp_path / "net.safetensors")
    outcome = without(package, tmp_path, "inspect", f"net{suffix}", "--model", "somebody:net")
    assert outcome.returncode == 2
    assert f"this needs {package}, which is not installed" in outcome.stderr
    assert "pip install 'bnfold[torch]'" in outcome.stderr
    assert len(outcome.stderr.splitlines()) <= 3
