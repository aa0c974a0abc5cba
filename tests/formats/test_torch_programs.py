"""Exported programs: refused without trust, edited as what they are, and whatever folds computes the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import checkpoint_files as files
import pytest
import torch
from checkpoint_files import IMAGE
from cli_fixtures import CommandLine
from torch import nn
from torch.export import Dim, export
from torch.export.graph_signature import InputSpec, TensorArgument
from torch_modules import assert_close, run, shaken, verdicts

import bnfold
from bnfold.errors import UnsafeError


def saved(module: nn.Module, folder: Path, x: torch.Tensor = IMAGE, *, is_dynamic: bool = True) -> Path:
    """The module as a program of any number of samples, or of two."""
    shapes = ({0: Dim("batch")},) if is_dynamic else None
    path = folder / "net.pt2"
    torch.export.save(export(module, (x,), dynamic_shapes=shapes), path)
    return path


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The network as a program."""
    return saved(files.net(), tmp_path_factory.mktemp("exported")).read_bytes()


@pytest.fixture
def net(exported: bytes, tmp_path: Path) -> Path:
    (tmp_path / "net.pt2").write_bytes(exported)
    return tmp_path / "net.pt2"


@pytest.mark.usefixtures("net")
def test_a_program_is_refused_without_trust(bnfold: CommandLine) -> None:
    for options in ([], ["--model", files.FACTORY]):
        outcome = bnfold("convert", "net.pt2", *options)
        assert outcome.code == 4
        assert "--trust-code" in outcome.err
        assert len(outcome.err.splitlines()) == 3


def test_load_folded_takes_no_program(net: Path) -> None:
    with pytest.raises(UnsafeError):
        bnfold.load_folded(files.Net(), net)


@pytest.mark.parametrize(
    "damage",
    [lambda content: content[: len(content) // 2], lambda content: content.replace(b'"graph"', b'"grape"')],
    ids=["cut", "a flipped word"],
)
def test_a_damaged_program_is_exit_3(bnfold: CommandLine, net: Path, damage: Callable[[bytes], bytes]) -> None:
    net.write_bytes(damage(net.read_bytes()))
    outcome = bnfold("convert", "net.pt2", "--trust-code")
    assert outcome.code == 3
    assert len(outcome.err.splitlines()) <= 3


def test_a_program_folds_keeps_its_shapes_open_and_loads(bnfold: CommandLine, net: Path, tmp_path: Path) -> None:
    outcome = bnfold("convert", net.name, "--trust-code", "--verify")
    assert outcome.code == 0
    assert ": pt2, " in outcome.out
    program = torch.export.load(tmp_path / "net.folded.pt2")
    program.validate()  # type: ignore[no-untyped-call]  # torch has no types here
    gone = ("bn.", "grouped_bn.", "dense_bn.")
    assert not any(name.startswith(gone) for name in program.state_dict)
    assert "conv.bias" in program.state_dict
    targets = [str(node.target) for node in program.graph.nodes]
    assert sum("batch_norm" in target for target in targets) == 1  # the one behind an activation
    for samples in (1, 5):
        x = torch.randn(samples, 3, 8, 8, generator=torch.Generator().manual_seed(samples))
        assert_close(run_program(program, x), run(files.net(), x))
    assert bnfold("verify", "net.pt2", "net.folded.pt2", "--trust-code").code == 0
    assert bnfold("inspect", "net.folded.pt2", "--trust-code", "--format", "json").out.count('"folded": 0') == 1


def test_what_was_not_changed_keeps_its_name(net: Path, tmp_path: Path) -> None:
    bnfold.convert(net, tmp_path / "folded.pt2", trust_code=True)
    before, after = (
        [node.name for node in torch.export.load(item).graph.nodes if node.op == "placeholder"]
        for item in (net, tmp_path / "folded.pt2")
    )
    assert set(after) - set(before) == {"p_conv_bias"}
    assert [name for name in before if name in after] == [name for name in after if name in before]


def run_program(program: Any, x: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        result: torch.Tensor = program.module()(x)
    return result


class Wired(nn.Module):
    """A conv, a batch norm and another conv, wired by a function."""

    def __init__(self, wire: Callable[[Any, torch.Tensor], Any]) -> None:
        super().__init__()
        self.conv, self.bn, self.last = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3)
        self.wire = wire
        shaken(self)

    def forward(self, x: torch.Tensor) -> Any:
        return self.wire(self, x)


def written_in_place(net: Any, x: torch.Tensor) -> torch.Tensor:
    u = torch.relu(x)
    z = net.bn(u)
    u.clamp_(max=1e6)
    return net.last(z)  # type: ignore[no-any-return]


def twice(net: Any, x: torch.Tensor) -> torch.Tensor:
    return net.bn(net.conv(net.conv(x)))  # type: ignore[no-any-return]


WIRES: dict[str, tuple[Callable[[Any, torch.Tensor], Any], str]] = {
    "a conv": (lambda net, x: net.bn(net.conv(x)), "conv"),
    "a relu in place behind it": (lambda net, x: net.last(net.bn(net.conv(x)).relu_()), "conv"),
    "a conv below": (lambda net, x: net.last(net.bn(torch.relu(x))), "last"),
    "a conv called twice": (twice, "weight-shared"),
    "the conv's output too": (lambda net, x: (net.bn(y := net.conv(x)), y), "model-output"),
    "an activation between": (lambda net, x: net.bn(torch.relu(net.conv(x))), "no-linear-layer"),
    "its input is written": (written_in_place, "fan-out"),
    "its own weight is read": (lambda net, x: net.bn(net.conv(x)) + net.bn.weight.sum(), "conv"),
    "the conv's weight is read": (lambda net, x: net.bn(net.conv(x)) + net.conv.weight.sum(), "weight-shared"),
    "statistics of the batch": (
        lambda net, x: nn.functional.batch_norm(net.conv(x), None, None, training=True),
        "no-running-stats",
    ),
}


@pytest.mark.parametrize(("wire", "verdict"), WIRES.values(), ids=WIRES)
def test_verdicts(tmp_path: Path, wire: Callable[[Any, torch.Tensor], Any], verdict: str) -> None:
    net = Wired(wire)
    result = bnfold.fold(saved(net, tmp_path, is_dynamic=False), trust_code=True)
    assert list(verdicts(result.plan).values()) == [verdict]
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(9))
    with torch.inference_mode():
        expected, actual = net(x), result.model.module()(x)
    for after, before in zip(
        torch.utils._pytree.tree_leaves(actual), torch.utils._pytree.tree_leaves(expected), strict=True
    ):
        assert_close(after, before)


def test_a_tensor_that_the_program_takes_twice_stays_for_its_other_reader(tmp_path: Path) -> None:
    """torch 2.6 gives a parameter that is read in two places a second placeholder, which nothing needs to read."""
    net = Wired(WIRES["its own weight is read"][0])
    program = export(net, (IMAGE,))
    first = next(node for node in program.graph.nodes if node.op == "placeholder")
    norm = next(spec for spec in program.graph_signature.input_specs if spec.target == "bn.weight")
    with program.graph.inserting_before(first):
        program.graph.placeholder("again").meta["val"] = first.meta["val"]
    program.graph_signature.input_specs.insert(0, InputSpec(norm.kind, TensorArgument("again"), norm.target))
    program.graph_module.recompile()
    torch.export.save(program, tmp_path / "net.pt2")
    result = bnfold.fold(tmp_path / "net.pt2", trust_code=True)
    assert list(verdicts(result.plan).values()) == ["conv"]
    assert_close(run_program(result.model, IMAGE), run(net, IMAGE))


@pytest.mark.filterwarnings("ignore::FutureWarning")  # torch warns of what it does itself
def test_a_program_of_core_operators_folds(tmp_path: Path) -> None:
    """Decomposed, a batch norm gives three values, and a convolution is one of any kind."""
    program = export(files.net(), (IMAGE,), dynamic_shapes=({0: Dim("batch")},)).run_decompositions()
    torch.export.save(program, tmp_path / "core.pt2")
    result = bnfold.fold(tmp_path / "core.pt2", trust_code=True)
    folded = {name for name, verdict in verdicts(result.plan).items() if "-" not in verdict}
    assert {"bn", "grouped_bn"} <= folded
    assert_close(run_program(result.model, IMAGE), run(files.net(), IMAGE))


def test_tied_weights_stay_tied(tmp_path: Path) -> None:
    x = torch.randn(4, 6, generator=torch.Generator().manual_seed(5))
    path = saved(files.tied(), tmp_path, x)
    result = bnfold.fold(path, trust_code=True)
    assert verdicts(result.plan) == {"a_bn": "weight-shared", "b_bn": "weight-shared", "c_bn": "c"}
    assert_close(run_program(result.model, x), run(files.tied(), x))


def test_half_precision_stays(tmp_path: Path) -> None:
    module = files.net().half()
    result = bnfold.fold(saved(module, tmp_path, IMAGE.half()), trust_code=True)
    assert {tensor.dtype for name, tensor in result.model.state_dict.items() if "tracked" not in name} == {
        torch.float16
    }
    assert_close(run_program(result.model, IMAGE.half()), run(module, IMAGE.half()))


def test_a_program_of_one_number_of_samples_is_verified_with_that_many(tmp_path: Path) -> None:
    path, folded = saved(files.net(), tmp_path, is_dynamic=False), tmp_path / "folded.pt2"
    bnfold.convert(path, folded, trust_code=True)
    report = bnfold.verify(path, folded, trust_code=True, samples=3)
    assert (report.passed, report.data.samples) == (True, 3)
