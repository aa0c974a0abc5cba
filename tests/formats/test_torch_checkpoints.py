"""Checkpoints and pickled modules through the command line and the API: refusals first, then every form of file."""

from __future__ import annotations

import ast
import importlib
import io
import json
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import checkpoint_files as files
import numpy as np
import pytest
import torch
from checkpoint_files import FACTORY, IMAGE, SHAPE, STATE_FILES, TIED_FILES, Net, Tied, written
from cli_fixtures import CommandLine
from safetensors.torch import load_file, save_file
from torch import nn
from torch_modules import TOLERANCE, assert_close, run, shaken

import bnfold
from bnfold import load_folded
from bnfold.errors import InputError, UnsafeError, UsageError

NAMES = ["bn", "grouped_bn", "late_bn", "dense_bn"]
FOLDED = {"bn", "grouped_bn", "dense_bn"}


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    return written(STATE_FILES, "plain.pt", tmp_path)


# Refused for safety: nothing that a file names is run.


class Payload:
    """Leaves a mark where unpickling runs it."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.mark,))


@pytest.mark.parametrize("wrapper", ["plain", "beside the tensors", "legacy"])
@pytest.mark.parametrize("command", ["inspect", "convert"])
def test_code_in_a_checkpoint_is_not_run_without_trust(
    bnfold: CommandLine, tmp_path: Path, wrapper: str, command: str
) -> None:
    mark, path = tmp_path / "ran", tmp_path / "evil.pt"
    content = {"state_dict": files.state(), "note": Payload(mark)} if "beside" in wrapper else Payload(mark)
    torch.save(content, path, _use_new_zipfile_serialization=wrapper != "legacy")
    outcome = bnfold(command, "evil.pt", "--model", FACTORY)
    assert outcome.code == 4
    assert not mark.exists()
    torch.load(path, weights_only=False)
    assert mark.exists()  # the payload works


def test_a_pickled_module_is_refused_and_its_class_named(bnfold: CommandLine, tmp_path: Path) -> None:
    torch.save(files.net(), tmp_path / "net.pt")
    for options in ([], ["--model", FACTORY], ["--model", FACTORY, "--trust-code"]):
        outcome = bnfold("inspect", "net.pt", *options)
        assert outcome.code == 4
        assert "checkpoint_files.Net" in outcome.err
        assert "--trust-code" in outcome.err


def test_a_file_with_foreign_globals_is_refused_and_names_one(bnfold: CommandLine, tmp_path: Path) -> None:
    torch.save({"state_dict": files.state(), "path": Path("somewhere")}, tmp_path / "foreign.pt")
    outcome = bnfold("convert", "foreign.pt", "--model", FACTORY)
    assert outcome.code == 4
    assert "pathlib." in outcome.err
    assert len(outcome.err.splitlines()) == 3


def test_only_the_trusted_file_loads_without_weights_only() -> None:
    homes = set()
    for path in Path(bnfold.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
                options = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
                homes.add((path.name, options["weights_only"]))
    assert homes == {("trusted.py", "False"), ("pickles.py", "True")}


# Unreadable: exit 3, in words.


@pytest.mark.parametrize("name", ["plain.pt", "legacy.pt", "plain.safetensors"])
@pytest.mark.parametrize("part", [0.1, 0.5, 0.9, 0.999])
def test_a_truncated_file_is_exit_3(bnfold: CommandLine, tmp_path: Path, name: str, part: float) -> None:
    path = written(STATE_FILES, name, tmp_path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * part)])
    outcome = bnfold("inspect", name, "--model", FACTORY)
    assert outcome.code == 3
    assert 1 <= len(outcome.err.splitlines()) <= 3
    assert "Traceback" not in outcome.err


def with_pickle(path: Path, content: bytes) -> None:
    """Replace the pickle inside a checkpoint."""
    stream = io.BytesIO()
    with zipfile.ZipFile(path) as before, zipfile.ZipFile(stream, "w") as after:
        for item in before.infolist():
            after.writestr(item, content if item.filename.endswith("data.pkl") else before.read(item))
    path.write_bytes(stream.getvalue())


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"garbage",
        b"\x80\x02]q\x00(h\x05e.",
        b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(K\x01tR.",
        b"\x80\x02e.",
    ],
    ids=["empty", "no pickle", "a missing memo", "a tensor without arguments", "an empty stack"],
)
def test_a_corrupt_pickle_is_exit_3(bnfold: CommandLine, plain: Path, content: bytes) -> None:
    with_pickle(plain, content)
    outcome = bnfold("inspect", plain.name, "--model", FACTORY)
    assert (outcome.code, len(outcome.err.splitlines())) == (3, 3)
    assert "cannot be read" in outcome.err


def test_another_pickle_protocol_is_named_and_not_taken_for_code(bnfold: CommandLine, tmp_path: Path) -> None:
    torch.save(files.state(), tmp_path / "new.pt", pickle_protocol=4)
    outcome = bnfold("inspect", "new.pt", "--model", FACTORY)
    assert outcome.code == 3
    assert "protocol 2" in outcome.err


@pytest.mark.parametrize(
    "record", ['{"identities": 5}', "no JSON", '{"identities": ["bn"], "biases": [7]}', '["bn"]', "null"]
)
def test_a_corrupt_record_of_the_structure_is_exit_3(bnfold: CommandLine, tmp_path: Path, record: str) -> None:
    save_file(files.state(), tmp_path / "odd.safetensors", metadata={"bnfold": record})
    outcome = bnfold("inspect", "odd.safetensors", "--model", FACTORY)
    assert outcome.code == 3
    assert len(outcome.err.splitlines()) <= 3


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"weights": [1, 2]}, "holds a dict, and no state_dict"),
        ([1, 2], "holds a list"),
        ({}, "holds a dict"),
        ({"state_dict": {**files.state(), "depth": 3}}, "holds more than tensors: depth"),
        ({**files.state(), "epoch": 7}, "holds more than tensors: epoch"),
        (torch.zeros(3), "holds a Tensor"),
    ],
    ids=["no state_dict", "list", "empty", "a number among the tensors", "the same, unwrapped", "one tensor"],
)
def test_a_file_without_a_state_dict_says_what_it_holds(
    bnfold: CommandLine, tmp_path: Path, content: object, said: str
) -> None:
    torch.save(content, tmp_path / "odd.pt")
    outcome = bnfold("inspect", "odd.pt", "--model", FACTORY)
    assert outcome.code == 3
    assert said in outcome.err


def test_a_state_dict_of_another_network_shows_at_most_five_names_of_a_kind(bnfold: CommandLine, plain: Path) -> None:
    outcome = bnfold("inspect", plain.name, "--model", "checkpoint_files:WithoutBatchNorm")
    assert outcome.code == 3
    assert "missing: 0.weight, 0.bias;" in outcome.err
    assert "unexpected: conv.weight, bn.weight, bn.bias, bn.running_mean, bn.running_var and 20 more" in outcome.err


def test_a_state_dict_of_other_shapes_names_them(bnfold: CommandLine, tmp_path: Path) -> None:
    torch.save({"0.weight": torch.zeros(3, 6), "0.bias": torch.zeros(3)}, tmp_path / "wide.pt")
    outcome = bnfold("inspect", "wide.pt", "--model", "checkpoint_files:Narrow")
    assert outcome.code == 3
    assert "other shapes: 0.weight, 0.bias" in outcome.err


# Wrong usage: exit 2.


@pytest.mark.parametrize(
    ("factory", "said"),
    [
        ("checkpoint_files:nothing", "no attribute 'nothing'"),
        ("no_such_module:Net", "No module named 'no_such_module'"),
        ("unclosed:Net", "was never closed"),
        ("script:Net", "SystemExit"),
        ("needy:Net", "needy imports no_such_package: install that"),
        ("checkpoint_files:broken", "the factory failed: no such depth"),
        ("checkpoint_files:ends_the_process", "the factory failed: SystemExit: 2"),
        ("checkpoint_files:a_number", "made an int"),
        ("checkpoint_files:NOT_CALLABLE", "not callable"),
        ("torch.nn:Linear", "bnfold calls it without arguments"),
    ],
)
def test_a_wrong_factory_is_exit_2(bnfold: CommandLine, plain: Path, factory: str, said: str) -> None:
    (plain.parent / "unclosed.py").write_text("Net = (", encoding="utf-8")
    (plain.parent / "needy.py").write_text("import no_such_package", encoding="utf-8")
    (plain.parent / "script.py").write_text("raise SystemExit(0)", encoding="utf-8")
    outcome = bnfold("inspect", plain.name, "--model", factory)
    assert outcome.code == 2
    assert said in outcome.err
    assert len(outcome.err.splitlines()) <= 3


@pytest.mark.parametrize("name", ["plain.pt", "plain.safetensors"])
@pytest.mark.parametrize("command", ["inspect", "convert"])
def test_a_state_dict_without_its_architecture_is_exit_2(
    bnfold: CommandLine, tmp_path: Path, name: str, command: str
) -> None:
    written(STATE_FILES, name, tmp_path)
    outcome = bnfold(command, name)
    assert outcome.code == 2
    assert "--model pkg.module:factory" in outcome.err


def test_trust_does_not_replace_the_architecture_of_a_state_dict(bnfold: CommandLine, plain: Path) -> None:
    outcome = bnfold("inspect", plain.name, "--trust-code")
    assert outcome.code == 2
    assert "--model" in outcome.err


def test_a_factory_in_the_current_directory_is_found(bnfold: CommandLine, plain: Path) -> None:
    (plain.parent / "my_own_nets.py").write_text("from checkpoint_files import Net as Mine", encoding="utf-8")
    assert bnfold("inspect", plain.name, "--model", "my_own_nets:Mine").code == 0
    del sys.modules["my_own_nets"]


def test_an_input_that_cannot_be_inferred_is_asked_for(bnfold: CommandLine, tmp_path: Path) -> None:
    (tmp_path / "volumes.py").write_text(
        "from torch import nn\ndef net(): return nn.Sequential(nn.Conv3d(2, 3, 2), nn.BatchNorm3d(3))", encoding="utf-8"
    )
    bare = nn.Sequential(nn.Conv3d(2, 3, 2), nn.BatchNorm3d(3))
    torch.save(bare.state_dict(), tmp_path / "volumes.pt")
    outcome = bnfold("inspect", "volumes.pt", "--model", "volumes:net")
    assert outcome.code == 2
    assert "--input" in outcome.err
    assert bnfold("inspect", "volumes.pt", "--model", "volumes:net", "--input", "1x2x4x4x4").code == 0
    del sys.modules["volumes"]


# Every form of file.


@pytest.mark.parametrize("name", STATE_FILES)
def test_every_form_of_state_dict_folds_and_comes_back_as_it_was(
    bnfold: CommandLine, tmp_path: Path, name: str
) -> None:
    path = written(STATE_FILES, name, tmp_path)
    outcome = bnfold("convert", name, "--model", FACTORY, "--input", SHAPE, "-o", "folded", "--format", "json")
    report = json.loads(outcome.out)
    assert outcome.code == 0
    assert {item["name"] for item in report["batch_norms"] if item["verdict"] == "folded"} == FOLDED
    assert [item["name"] for item in report["batch_norms"]] == NAMES
    assert report["source"]["format"] == report["output"]["format"]
    module = files.folded_into_fresh(tmp_path / "folded")
    assert {part for part, kind in module.named_children() if type(kind) is nn.Identity} == FOLDED
    assert_close(run(module, IMAGE), run(files.net(), IMAGE))
    same_kind = zipfile.is_zipfile(path) or name == "legacy.pt"
    assert zipfile.is_zipfile(tmp_path / "folded") == same_kind


@pytest.mark.parametrize(
    ("name", "prefix", "wrapper"),
    [
        ("prefixed.pt", "module.", None),
        ("model.pt", "", "model"),
        ("wrapped_and_prefixed.pt", "module.", "state_dict"),
    ],
)
def test_prefix_and_wrapper_stay(tmp_path: Path, name: str, prefix: str, wrapper: str | None) -> None:
    path = written(STATE_FILES, name, tmp_path)
    bnfold.convert(path, tmp_path / "folded.pt", factory=Net, inputs=IMAGE)
    before, after = (torch.load(item, weights_only=True) for item in (path, tmp_path / "folded.pt"))
    if wrapper:
        assert list(after) == [wrapper, *(key for key in before if key != wrapper)]
        assert all(after[key] == before[key] for key in before if key != wrapper)
        after = after[wrapper]
    assert all(key.startswith(prefix) for key in after)
    assert {f"{prefix}conv.weight", f"{prefix}conv.bias", f"{prefix}late_bn.running_mean"} <= set(after)
    assert not any(key.startswith(f"{prefix}bn.") for key in after)


def test_a_factory_that_makes_a_data_parallel_keeps_the_prefix(bnfold: CommandLine, tmp_path: Path) -> None:
    written(STATE_FILES, "prefixed.safetensors", tmp_path)
    command = ["convert", "prefixed.safetensors", "--model", "checkpoint_files:parallel", "--input", SHAPE]
    assert bnfold(*command).code == 0
    folded = tmp_path / "prefixed.folded.safetensors"
    assert_close(run(files.folded_into_fresh(folded), IMAGE), run(files.net(), IMAGE))
    wrapped: Any = load_folded(files.parallel(), folded)
    assert type(wrapped.module.bn) is nn.Identity


def test_a_damaged_pickled_module_is_exit_3_on_trust_too(bnfold: CommandLine, tmp_path: Path) -> None:
    torch.save(files.net(), tmp_path / "net.pt")
    content = bytearray((tmp_path / "net.pt").read_bytes())
    content[content.index(b"data/0") + 200] ^= 1
    (tmp_path / "net.pt").write_bytes(content)
    outcome = bnfold("inspect", "net.pt", "--trust-code", "--input", SHAPE)
    assert outcome.code == 3
    assert "checksum" in outcome.err


def test_a_pickled_module_folds_on_trust(bnfold: CommandLine, tmp_path: Path) -> None:
    torch.save(files.net(), tmp_path / "net.pt")
    assert bnfold("convert", "net.pt", "--trust-code", "--input", SHAPE).code == 0
    module = torch.load(tmp_path / "net.folded.pt", weights_only=False)
    assert type(module.bn) is nn.Identity
    assert not any(type(part).__module__.startswith("bnfold") for part in module.modules())
    assert_close(run(module, IMAGE), run(files.net(), IMAGE))


def test_a_pickled_module_whose_class_lies_in_the_current_directory_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a stranger does it: the class in a file, the command in a process of its own."""
    (tmp_path / "nets_here.py").write_text(
        "from torch import nn\nclass Here(nn.Sequential):\n    pass\n", encoding="utf-8"
    )
    with monkeypatch.context() as patch:
        patch.syspath_prepend(tmp_path)
        module = importlib.import_module("nets_here").Here(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).eval()
        torch.save(module, tmp_path / "here.pt")
    launch = "import sys; sys.path.remove(''); from bnfold.cli.entry import run; sys.exit(run(sys.argv[1:]))"
    command = [sys.executable, "-c", launch, "inspect", "here.pt", "--trust-code"]
    outcome = subprocess.run(command, cwd=tmp_path, check=False, capture_output=True, text=True)  # noqa: S603 - as above
    assert (outcome.returncode, outcome.stderr) == (0, "")
    assert "1 folded" in outcome.stdout


@pytest.mark.parametrize("name", TIED_FILES)
def test_tied_weights_stay_tied_and_the_rest_folds(bnfold: CommandLine, tmp_path: Path, name: str) -> None:
    path = written(TIED_FILES, name, tmp_path)
    outcome = bnfold(
        "convert", name, "--model", "checkpoint_files:Tied", "-o", f"folded{path.suffix}", "--format", "json"
    )
    assert outcome.code == 0
    verdicts = {
        item["name"]: item["reason"]["slug"] if item["reason"] else "folded"
        for item in json.loads(outcome.out)["batch_norms"]
    }
    assert verdicts == {"a_bn": "weight-shared", "b_bn": "weight-shared", "c_bn": "folded"}
    module = load_folded(Tied(), tmp_path / f"folded{path.suffix}").eval()
    x = torch.randn(4, 6, generator=torch.Generator().manual_seed(5))
    assert_close(run(module, x), run(files.tied(), x))


# Dtypes.


def names_and_dtypes(path: Path) -> dict[str, torch.dtype]:
    state = load_file(path) if path.suffix == ".safetensors" else torch.load(path, weights_only=True)
    return {name: tensor.dtype for name, tensor in state.items()}


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_a_checkpoint_keeps_its_dtype_whatever_the_factory_makes(
    bnfold: CommandLine, tmp_path: Path, dtype: torch.dtype, suffix: str
) -> None:
    path = tmp_path / f"narrow{suffix}"
    stored = files.in_dtype(dtype)
    save_file(stored, path) if suffix == ".safetensors" else torch.save(stored, path)
    assert bnfold("convert", path.name, "--model", FACTORY, "--input", SHAPE).code == 0
    folded = tmp_path / f"narrow.folded{suffix}"
    floats = {found for name, found in names_and_dtypes(folded).items() if not name.endswith("tracked")}
    assert floats == {dtype}
    assert bnfold("verify", path.name, folded.name, "--model", FACTORY, "--input", SHAPE).code == 0
    expected, module = Net().to(dtype), load_folded(Net().to(dtype), folded)
    expected.load_state_dict(stored)
    assert_close(run(module.eval(), IMAGE.to(dtype)), run(expected.eval(), IMAGE.to(dtype)))


def test_a_checkpoint_of_several_dtypes_keeps_each(tmp_path: Path) -> None:
    path = tmp_path / "mixed.pt"
    torch.save(files.in_dtype(torch.float16, only="grouped."), path)
    bnfold.convert(path, tmp_path / "folded.pt", factory=HalfGrouped)
    found = names_and_dtypes(tmp_path / "folded.pt")
    assert {name for name, dtype in found.items() if dtype is torch.float16} == {"grouped.weight", "grouped.bias"}


class HalfGrouped(Net):
    """The network as somebody runs it with one layer in half precision."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.bn(self.conv(x))).half()
        x = torch.relu(self.late_bn(torch.relu(self.grouped_bn(self.grouped(x)))).float())
        return self.dense_bn(self.dense(x.mean((2, 3))))  # type: ignore[no-any-return]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_every_folded_value_is_the_exact_fold_rounded_once(tmp_path: Path, dtype: torch.dtype) -> None:
    path, folded = tmp_path / "net.safetensors", tmp_path / "folded.safetensors"
    save_file(files.in_dtype(dtype), path)
    bnfold.convert(path, folded, factory=Net, inputs=IMAGE)
    before = {name: tensor.double().numpy() for name, tensor in load_file(path).items()}
    after = {name: tensor.numpy() for name, tensor in load_file(folded).items()}
    for layer, bn, epsilon in (("conv", "bn", 1e-5), ("grouped", "grouped_bn", 1e-3), ("dense", "dense_bn", 1e-5)):
        scale = before[f"{bn}.weight"] / np.sqrt(before[f"{bn}.running_var"] + epsilon)
        shift = before[f"{bn}.bias"] - before[f"{bn}.running_mean"] * scale
        weight = before[f"{layer}.weight"]
        exact = weight * scale.reshape(-1, *[1] * (weight.ndim - 1))
        bias = before[f"{layer}.bias"] * scale + shift if layer != "conv" else shift
        kind = np.float16 if dtype is torch.float16 else np.float32
        assert np.array_equal(after[f"{layer}.weight"], exact.astype(kind))
        assert np.array_equal(after[f"{layer}.bias"], bias.astype(kind))


# What else a file holds.


def test_optimiser_state_is_left_out_with_a_note_and_the_rest_is_carried(bnfold: CommandLine, tmp_path: Path) -> None:
    optimiser = torch.optim.SGD(files.net().parameters(), lr=0.1, momentum=0.9)
    content = {
        "epoch": 12,
        "state_dict": files.state(),
        "optimizer": optimiser.state_dict(),
        "lr_scheduler": {"last_epoch": 12},
        "args": {"lr": 0.1, "names": ["a", "b"]},
        "best": torch.tensor(0.97),
    }
    torch.save(content, tmp_path / "train.pt")
    outcome = bnfold("convert", "train.pt", "--model", FACTORY, "--input", SHAPE)
    assert outcome.code == 0
    assert "optimizer, lr_scheduler" in outcome.err
    carried = torch.load(tmp_path / "train.folded.pt", weights_only=True)
    assert list(carried) == ["epoch", "state_dict", "args", "best"]
    assert carried["args"] == content["args"]
    assert torch.equal(carried["best"], torch.tensor(0.97))


def test_a_moving_average_is_folded_by_a_plan_of_its_own(tmp_path: Path) -> None:
    """Its batch norms have other statistics, and here one that cannot be folded."""
    average = shaken(Net(), seed=5)
    content = {f"module.{name}": tensor for name, tensor in average.state_dict().items()}
    content["module.dense_bn.running_var"][0] = float("nan")
    path, folded = tmp_path / "ema.pt", tmp_path / "folded.pt"
    torch.save({"state_dict": files.state(), "state_dict_ema": {"n_averaged": torch.tensor(3), **content}}, path)
    report = bnfold.convert(path, folded, factory=Net, inputs=IMAGE)
    assert "its copy under 'state_dict_ema' is folded too: 2 of 4 batch norms" in report.warnings
    stored = torch.load(folded, weights_only=True)["state_dict_ema"]
    assert next(iter(stored)) == "n_averaged"
    assert "module.bn.weight" not in stored
    own, copy = load_folded(Net(), folded).eval(), load_folded(Net(), folded, key="state_dict_ema").eval()
    average.load_state_dict({name.removeprefix("module."): tensor for name, tensor in content.items()})
    assert_close(run(own, IMAGE), run(files.net(), IMAGE))
    got, expected = run(copy, IMAGE), run(average, IMAGE)
    assert_close(got[:, 1:], expected[:, 1:])
    assert torch.equal(got[:, 0].isnan(), expected[:, 0].isnan())


def test_an_average_of_the_weights_alone_is_carried_as_it_is(tmp_path: Path) -> None:
    """Without running statistics of its own it says of no batch norm what it does."""
    weights = {name: tensor.detach() for name, tensor in files.net().named_parameters()}
    torch.save({"state_dict": files.state(), "ema": weights}, tmp_path / "ema.pt")
    report = bnfold.convert(tmp_path / "ema.pt", tmp_path / "folded.pt", factory=Net, inputs=IMAGE)
    assert any("carried unfolded: ema" in warning for warning in report.warnings)
    carried = torch.load(tmp_path / "folded.pt", weights_only=True)["ema"]
    assert all(torch.equal(carried[name], tensor) for name, tensor in weights.items())


def test_a_teacher_of_another_width_is_carried_as_it_is(tmp_path: Path) -> None:
    teacher = files.state() | {"dense.weight": torch.zeros(50, 6), "dense.bias": torch.zeros(50)}
    torch.save({"model": files.state(), "teacher": teacher}, tmp_path / "pair.pt")
    report = bnfold.convert(tmp_path / "pair.pt", tmp_path / "folded.pt", factory=Net, inputs=IMAGE)
    assert any("carried unfolded: teacher" in warning for warning in report.warnings)
    assert "bn.weight" in torch.load(tmp_path / "folded.pt", weights_only=True)["teacher"]


def test_a_key_chooses_the_state_dict(bnfold: CommandLine, tmp_path: Path) -> None:
    other = shaken(Net(), seed=6)
    content = {"epoch": 3, "generator": other.state_dict(), "average": files.state()}
    torch.save(content, tmp_path / "two.pt")
    options = ["--model", FACTORY, "--input", SHAPE]
    unknown = bnfold("convert", "two.pt", *options)
    assert (unknown.code, len(unknown.err.splitlines())) == (3, 3)
    assert "generator, average" in unknown.err
    assert "--key" in unknown.err
    wrong = bnfold("convert", "two.pt", *options, "--key", "nothing")
    assert wrong.code == 2
    assert "there are generator, average" in wrong.err
    assert bnfold("convert", "two.pt", *options, "--key", "generator").code == 0
    assert_close(run(load_folded(Net(), tmp_path / "two.folded.pt", key="generator").eval(), IMAGE), run(other, IMAGE))
    both = [*options, "--key", "average"]
    assert bnfold("verify", "two.pt", "two.folded.pt", *both).code == 0


@pytest.mark.parametrize("name", ["plain.safetensors", "plain.pt"])
def test_a_file_without_keys_takes_none(bnfold: CommandLine, tmp_path: Path, name: str) -> None:
    written(STATE_FILES, name, tmp_path)
    assert bnfold("inspect", name, "--model", FACTORY, "--key", "model").code == 2


# The same bytes; and loading them again.


def convert_all(source: Path, target: Path) -> None:
    """Write every form of file, and a pickled module, and convert each."""
    for folder in (source, target):
        folder.mkdir()
    for name in STATE_FILES:
        path = written(STATE_FILES, name, source)
        bnfold.convert(path, target / name, factory=Net, inputs=IMAGE)
    torch.save(files.net(), source / "module.pt")
    bnfold.convert(source / "module.pt", target / "module.pt", trust_code=True, inputs=IMAGE)


def test_the_same_bytes_in_any_process(tmp_path: Path) -> None:
    """Hash seeds and addresses differ from process to process; a file must not show them."""
    script = "import sys; from pathlib import Path; from test_torch_checkpoints import convert_all; "
    script += "convert_all(Path('in_there'), Path('there'))"
    environment = {"PYTHONPATH": ":".join(path for path in sys.path if path), "PYTHONHASHSEED": "1"}
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True, env=environment)  # noqa: S603 - our script
    convert_all(tmp_path / "in_here", tmp_path / "here")
    contents = [{path.name: path.read_bytes() for path in (tmp_path / at).iterdir()} for at in ("here", "there")]
    assert contents[0] == contents[1]
    assert len(contents[0]) == len(STATE_FILES) + 1


def test_the_names_of_the_files_are_not_in_the_bytes(tmp_path: Path, plain: Path) -> None:
    for name in ("one.pt", "another.pt"):
        bnfold.convert(plain, tmp_path / name, factory=Net, inputs=IMAGE)
    assert (tmp_path / "one.pt").read_bytes() == (tmp_path / "another.pt").read_bytes()


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_load_folded_refuses_another_architecture(tmp_path: Path, suffix: str) -> None:
    path = written(STATE_FILES, f"plain{suffix}", tmp_path)
    bnfold.convert(path, tmp_path / f"folded{suffix}", factory=Net, inputs=IMAGE)
    for other in (files.Narrow(), Tied(), nn.Sequential()):
        with pytest.raises(InputError, match=r"another architecture|does not fit"):
            load_folded(other, tmp_path / f"folded{suffix}")


def test_load_folded_refuses_a_module_with_something_else_in_the_batch_norms_place(tmp_path: Path, plain: Path) -> None:
    bnfold.convert(plain, tmp_path / "folded.pt", factory=Net, inputs=IMAGE)
    module = Net()
    module.bn = nn.InstanceNorm2d(4, affine=True)  # type: ignore[assignment]
    with pytest.raises(InputError, match="not a batch norm"):
        load_folded(module, tmp_path / "folded.pt")


def test_load_folded_is_strict(tmp_path: Path, plain: Path) -> None:
    bnfold.convert(plain, tmp_path / "folded.pt", factory=Net, inputs=IMAGE)
    content = torch.load(tmp_path / "folded.pt", weights_only=True)
    del content["conv.bias"]
    torch.save(content, tmp_path / "less.pt")
    with pytest.raises(InputError, match=r"missing: conv\.bias"):
        load_folded(Net(), tmp_path / "less.pt")


def test_load_folded_reads_an_unfolded_checkpoint_as_it_is(plain: Path) -> None:
    module = files.folded_into_fresh(plain)
    assert torch.equal(run(module, IMAGE), run(files.net(), IMAGE))


def test_load_folded_runs_no_code_and_takes_no_onnx(tmp_path: Path) -> None:
    torch.save(files.net(), tmp_path / "net.pt")
    with pytest.raises(UnsafeError):
        load_folded(Net(), tmp_path / "net.pt")
    with pytest.raises(InputError, match="no file"):
        load_folded(Net(), tmp_path / "missing.pt")


def test_load_folded_wants_a_module_first(plain: Path) -> None:
    with pytest.raises(UsageError, match=r"a type is no nn\.Module"):
        load_folded(Net, plain)  # type: ignore[arg-type]


def test_a_checkpoint_folded_in_two_steps_loads_all_the_same(tmp_path: Path, plain: Path) -> None:
    once, twice = tmp_path / "once.pt", tmp_path / "twice.pt"
    bnfold.convert(plain, once, factory=Net, inputs=IMAGE, only="bn")
    report = bnfold.convert(once, twice, factory=Net, inputs=IMAGE)
    assert (report.found, report.folded) == (3, 2)
    assert_close(run(files.folded_into_fresh(twice), IMAGE), run(files.net(), IMAGE))


def test_a_layer_registered_twice_keeps_both_names(tmp_path: Path) -> None:
    module = shaken(Twice())
    torch.save(module.state_dict(), tmp_path / "twice.pt")
    bnfold.convert(tmp_path / "twice.pt", tmp_path / "folded.pt", factory=Twice, inputs=IMAGE)
    state = torch.load(tmp_path / "folded.pt", weights_only=True)
    assert {"conv.bias", "layers.0.bias"} <= set(state)
    assert_close(run(load_folded(Twice(), tmp_path / "folded.pt").eval(), IMAGE), run(module, IMAGE))


class Twice(nn.Module):
    """A network whose parts have two names each."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4)
        self.layers = nn.Sequential(self.conv, self.bn)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)  # type: ignore[no-any-return]


# The converter's options.


def test_a_model_without_batch_norms_is_copied_byte_for_byte(bnfold: CommandLine, tmp_path: Path) -> None:
    torch.save({"state_dict": files.WithoutBatchNorm().state_dict(), "optimizer": {}}, tmp_path / "bare.pt")
    outcome = bnfold("convert", "bare.pt", "--model", "checkpoint_files:WithoutBatchNorm")
    assert outcome.code == 0
    assert "found 0 batch norms" in outcome.out
    assert (tmp_path / "bare.folded.pt").read_bytes() == (tmp_path / "bare.pt").read_bytes()


@pytest.mark.parametrize(
    ("options", "folded"),
    [
        (["--only", "*_bn"], {"grouped_bn", "dense_bn"}),
        (["--skip", "dense*"], {"bn", "grouped_bn"}),
        (["--only", "bn", "--skip", "bn"], set()),
    ],
)
def test_only_and_skip(bnfold: CommandLine, plain: Path, options: list[str], folded: set[str]) -> None:
    outcome = bnfold("inspect", plain.name, "--model", FACTORY, "--input", SHAPE, "--format", "json", *options)
    found = json.loads(outcome.out)["batch_norms"]
    assert {item["name"] for item in found if item["verdict"] == "folded"} == folded


def test_require_fold(bnfold: CommandLine, plain: Path) -> None:
    command = ["convert", plain.name, "--model", FACTORY, "--input", SHAPE]
    refused = bnfold(*command, "--require-fold=all")
    assert refused.code == 5
    assert "3 of 4" in refused.err
    assert bnfold(*command, "--require-fold", "--skip", "*").code == 5
    assert not (plain.parent / "plain.folded.pt").exists()
    assert bnfold(*command, "--require-fold").code == 0


def test_check_and_dry_run_write_nothing(bnfold: CommandLine, plain: Path) -> None:
    command = ["convert", plain.name, "--model", FACTORY, "--input", SHAPE]
    folded = plain.parent / "plain.folded.pt"
    assert bnfold(*command, "--check").code == 1
    assert bnfold(*command, "--dry-run").code == 0
    assert not folded.exists()
    assert bnfold(*command).code == 0
    assert bnfold(*command, "--check").code == 0
    before = folded.read_bytes()
    folded.write_bytes(before[:-1])
    assert bnfold(*command, "--check").code == 1
    assert folded.read_bytes() == before[:-1]


def test_an_existing_output_needs_force_and_the_input_is_never_written(bnfold: CommandLine, plain: Path) -> None:
    original = plain.read_bytes()
    command = ["convert", plain.name, "--model", FACTORY, "--input", SHAPE]
    (plain.parent / "plain.folded.pt").write_bytes(b"mine")
    assert bnfold(*command).code == 6
    assert (plain.parent / "plain.folded.pt").read_bytes() == b"mine"
    assert bnfold(*command, "-o", plain.name, "--force").code in {2, 6}
    assert plain.read_bytes() == original
    assert bnfold(*command, "--force").code == 0


def test_a_failure_while_writing_leaves_the_old_file_and_no_other(plain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from bnfold.formats.torch.files import Checkpoint

    def fail(_: Checkpoint, _stream: object) -> None:
        raise OSError(28, "No space left on device")

    target = plain.parent / "plain.folded.pt"
    target.write_bytes(b"old")
    monkeypatch.setattr(Checkpoint, "_write_pt", fail)
    with pytest.raises(bnfold.BnfoldError, match="No space left") as caught:
        bnfold.convert(plain, target, factory=Net, inputs=IMAGE, force=True)
    assert caught.value.exit_code == 6
    assert target.read_bytes() == b"old"
    assert sorted(path.name for path in plain.parent.iterdir()) == ["plain.folded.pt", "plain.pt"]


# Verified, and timed.


def test_a_folded_checkpoint_is_verified_through_its_architecture(bnfold: CommandLine, plain: Path) -> None:
    options = ["--model", FACTORY, "--input", SHAPE]
    assert bnfold("convert", plain.name, *options, "--verify").code == 0
    outcome = bnfold("verify", plain.name, "plain.folded.pt", *options)
    assert outcome.code == 0
    assert "PASS" in outcome.out


def damaged(state: dict[str, torch.Tensor], how: str) -> None:
    if how == "one channel by 1 %":
        state["dense.weight"][3] *= 1.01
    elif how == "one NaN":
        state["dense.weight"][2, 1] = float("nan")
    else:
        before = files.state()
        forgotten = before["grouped_bn.weight"] / before["grouped_bn.running_var"].sqrt()
        state["grouped.weight"] = before["grouped.weight"] * forgotten[:, None, None, None]


@pytest.mark.parametrize("how", ["one channel by 1 %", "one NaN", "a forgotten ε"])
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_damaged_fold_fails_verification(bnfold: CommandLine, tmp_path: Path, how: str, suffix: str) -> None:
    name = f"plain{suffix}"
    options = ["--model", FACTORY, "--input", SHAPE]
    written(STATE_FILES, name, tmp_path)
    assert bnfold("convert", name, *options, "-o", f"folded{suffix}").code == 0
    path = tmp_path / f"folded{suffix}"
    state = load_file(path) if suffix == ".safetensors" else torch.load(path, weights_only=True)
    record = json.dumps({"identities": sorted(FOLDED), "biases": ["conv"]})
    damaged(state, how)
    save_file(state, path, metadata={"bnfold": record}) if suffix == ".safetensors" else torch.save(state, path)
    outcome = bnfold("verify", name, path.name, *options)
    assert outcome.code == 1
    assert "FAIL" in outcome.out


def test_checkpoints_are_timed_in_eager_mode(tmp_path: Path, plain: Path) -> None:
    bnfold.convert(plain, tmp_path / "folded.pt", factory=Net, inputs=IMAGE)
    report = bnfold.bench(
        plain, tmp_path / "folded.pt", factory=Net, inputs=IMAGE, batch=[1], min_seconds=0.01, threads=1
    )
    assert {case.runtime for case in report.cases} == {"PyTorch eager"}
    assert report.passed


def test_an_onnx_file_is_no_checkpoint_and_the_other_way_round(plain: Path) -> None:
    from sample_models import NETWORKS

    onnx = next(network.onnx() for network in NETWORKS if network.shipped)
    assert not bnfold.verify(onnx, plain, factory=Net, inputs=IMAGE).passed
    with pytest.raises(InputError, match="ONNX model, not a checkpoint"):
        load_folded(Net(), onnx)


def test_tolerances_of_the_helpers_are_those_of_the_contract() -> None:
    assert TOLERANCE[torch.float32] == 1e-5
