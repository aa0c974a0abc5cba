"""From every kind of PyTorch file to every other: the outputs of the fold in memory, the same bytes, or a reason."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import checkpoint_files as files
import onnx
import onnxruntime
import pytest
import torch
from checkpoint_files import FACTORY, IMAGE, SHAPE, Net, written
from cli_fixtures import CommandLine
from safetensors.torch import save_file
from torch import nn
from torch.export import Dim, export
from torch_modules import assert_close, run, shaken

import bnfold
from bnfold.errors import UsageError
from bnfold.formats.kinds import TARGETS


class Mixed(nn.Module):
    """Tied matrices, a convolution that runs twice, and layers without bias."""

    def __init__(self) -> None:
        super().__init__()
        self.twice, self.twice_bn = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)
        self.conv, self.bn = nn.Conv2d(3, 6, 3, bias=False), nn.BatchNorm2d(6)
        self.a, self.b = nn.Linear(6, 6), nn.Linear(6, 6)
        self.b.weight = self.a.weight
        self.last, self.last_bn = nn.Linear(6, 2, bias=False), nn.BatchNorm1d(2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.twice_bn(self.twice(self.twice(x))))
        x = torch.relu(self.bn(self.conv(x))).mean((2, 3))
        return self.last_bn(self.last(self.b(torch.relu(self.a(x)))))  # type: ignore[no-any-return]


class SideBySide(nn.Module):
    """RepVGG's block, whose batch norm without a convolution can only stop to add anything in PyTorch."""

    def __init__(self) -> None:
        super().__init__()
        self.square, self.square_bn = nn.Conv2d(3, 3, 3, padding=1, bias=False), nn.BatchNorm2d(3)
        self.point, self.point_bn = nn.Conv2d(3, 3, 1, bias=False), nn.BatchNorm2d(3)
        self.identity = nn.BatchNorm2d(3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.sigmoid(x)
        return torch.relu(self.square_bn(self.square(x)) + self.point_bn(self.point(x)) + self.identity(x))


def mixed(dtype: torch.dtype = torch.float32) -> nn.Module:
    torch.manual_seed(8)
    return shaken(Mixed()).to(dtype)


def program(path: Path, module: nn.Module) -> None:
    image = IMAGE.to(next(module.parameters()).dtype)
    torch.export.save(export(module, (image,), dynamic_shapes=({0: Dim("batch")},)), path)


SOURCES: dict[str, Callable[[Path, nn.Module], Any]] = {
    "state.pt": lambda path, module: torch.save(module.state_dict(), path),
    "train.pt": lambda path, module: torch.save({"epoch": 1, "model": module.state_dict(), "optimizer": {}}, path),
    "net.safetensors": lambda path, module: save_file({k: v.clone() for k, v in module.state_dict().items()}, path),
    "module.pt": lambda path, module: torch.save(module, path),
    "program.pt2": program,
}


def options_of(name: str, x: torch.Tensor = IMAGE) -> dict[str, Any]:
    trusted = name in {"module.pt", "program.pt2"}
    return {"trust_code": True, "inputs": (x,)} if trusted else {"factory": Mixed, "inputs": (x,)}


FORMS = [(to, dtype) for to in ("pt", "safetensors") for dtype in (torch.float32, torch.float16)]
CASES = [(name, to, dtype) for name in SOURCES for to, dtype in FORMS]
EXPORTED = [(name, torch.float16 if name in {"module.pt", "program.pt2"} else torch.float32) for name in SOURCES]


@pytest.mark.parametrize(("name", "to", "dtype"), CASES)
def test_tensors_go_from_every_kind_into_a_state_dict(tmp_path: Path, name: str, to: Any, dtype: torch.dtype) -> None:
    module, x = mixed(dtype), IMAGE.to(dtype)
    SOURCES[name](tmp_path / name, module)
    outputs = [tmp_path / f"{turn}.{to}" for turn in (1, 2)]
    for output in outputs:
        report = bnfold.convert(tmp_path / name, output, to=to, **options_of(name, x))
    assert (report.found, report.folded) == (3, 2)
    assert outputs[0].read_bytes() == outputs[1].read_bytes()
    key = "model" if (name, to) == ("train.pt", "pt") else None
    loaded = bnfold.load_folded(Mixed().to(dtype), outputs[0], key=key).eval()
    assert_close(run(loaded, x), run(module, x))
    assert torch.equal(run(loaded, x), run(bnfold.fold(module, x).model, x))


@pytest.mark.parametrize(("name", "dtype"), EXPORTED)
def test_to_onnx_has_an_open_batch_and_the_names_of_torch(tmp_path: Path, name: str, dtype: torch.dtype) -> None:
    module, x = mixed(dtype), IMAGE.to(dtype)
    SOURCES[name](tmp_path / name, module)
    for output in ("1.onnx", "2.onnx")[: 1 + (name == "train.pt")]:
        report = bnfold.convert(tmp_path / name, tmp_path / output, to="onnx", **options_of(name, x))
    assert report.verification is not None
    assert report.verification.passed
    assert report.output is not None
    assert report.output.format == "onnx"
    assert len({path.read_bytes() for path in tmp_path.glob("*.onnx")}) == 1
    assert str(Path(__file__).parent).encode() not in (tmp_path / "1.onnx").read_bytes()
    session = onnxruntime.InferenceSession(tmp_path / "1.onnx", providers=["CPUExecutionProvider"])
    assert [(item.name, item.shape[1:]) for item in session.get_inputs()] == [("input", [3, 8, 8])]
    for samples in (1, 5):
        image = torch.randn(samples, 3, 8, 8, generator=torch.Generator().manual_seed(samples)).to(dtype)
        (found,) = session.run(["output"], {"input": image.numpy()})
        assert_close(torch.from_numpy(found), run(module, image))


def operators_of(path: Path) -> list[str]:
    return [node.op_type for node in onnx.load(path).graph.node]


def test_to_onnx_leaves_out_what_only_the_code_of_the_module_had_to_keep(tmp_path: Path) -> None:
    torch.manual_seed(8)
    module, target = shaken(SideBySide()), tmp_path / "net.onnx"
    torch.save(module.state_dict(), tmp_path / "state.pt")
    report = bnfold.convert(tmp_path / "state.pt", target, to="onnx", factory=SideBySide, inputs=(IMAGE,))
    assert (report.found, report.folded) == (3, 3)
    assert report.verification is not None
    assert report.verification.passed
    assert operators_of(target) == ["Sigmoid", "Conv", "Relu"]
    assert report.warnings[-2:] == (
        "the exported model is without 1 of the batch norms that the module keeps",
        "1 of the exported model's layers went into others beside them",
    )
    session = onnxruntime.InferenceSession(target, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    assert_close(torch.from_numpy(session.run(None, {name: IMAGE.numpy()})[0]), run(module, IMAGE))


def test_to_onnx_is_left_as_torch_exports_it_where_batch_norms_are_excluded(tmp_path: Path) -> None:
    target = tmp_path / "net.onnx"
    torch.save(shaken(SideBySide()).state_dict(), tmp_path / "state.pt")
    options: dict[str, Any] = {"to": "onnx", "factory": SideBySide, "inputs": (IMAGE,), "skip": "identity"}
    bnfold.convert(tmp_path / "state.pt", target, **options)
    assert operators_of(target).count("BatchNormalization") == 1


@pytest.mark.parametrize(("name", "dtype"), EXPORTED)
def test_to_pt2_and_from_there_on(tmp_path: Path, name: str, dtype: torch.dtype) -> None:
    """What was folded is not forgotten on the way."""
    module, x = mixed(dtype), IMAGE.to(dtype)
    SOURCES[name](tmp_path / name, module)
    report = bnfold.convert(tmp_path / name, tmp_path / "out.pt2", to="pt2", **options_of(name, x))
    assert name == "program.pt2" or (report.verification is not None and report.verification.passed)
    loaded = torch.export.load(tmp_path / "out.pt2")
    image = torch.randn(7, 3, 8, 8, generator=torch.Generator().manual_seed(7)).to(dtype)
    with torch.inference_mode():
        assert_close(loaded.module()(image), run(module, image))
    bnfold.convert(tmp_path / "out.pt2", tmp_path / "back.safetensors", to="safetensors", trust_code=True)
    back = bnfold.load_folded(Mixed().to(dtype), tmp_path / "back.safetensors").eval()
    assert_close(run(back, x), run(module, x))


def test_a_module_of_one_number_of_samples_is_exported_for_that_and_says_so(tmp_path: Path) -> None:
    module = shaken(
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(0), nn.Unflatten(0, (2, 144)))
    )
    torch.save(module, tmp_path / "fixed.pt")
    report = bnfold.convert(tmp_path / "fixed.pt", tmp_path / "fixed.pt2", to="pt2", trust_code=True, inputs=IMAGE)
    assert any("as many samples as in the example only" in warning for warning in report.warnings)


def test_a_safetensors_file_holds_one_network(bnfold: CommandLine, tmp_path: Path) -> None:
    content = {"epoch": 1, "state_dict": files.state(), "ema": files.prefixed(), "optimizer": {}}
    torch.save(content, tmp_path / "train.pt")
    options = ["--model", FACTORY, "--input", SHAPE, "--to", "safetensors"]
    outcome = bnfold("convert", "train.pt", *options, "--key", "ema", "--verify")
    assert outcome.code == 0
    assert "left out, since safetensors holds the tensors of one network: epoch, state_dict" in outcome.err
    assert_close(run(files.folded_into_fresh(tmp_path / "train.folded.safetensors"), IMAGE), run(files.net(), IMAGE))


def test_what_is_never_folded_is_still_another_file(tmp_path: Path) -> None:
    path = written(files.STATE_FILES, "plain.pt", tmp_path)
    bnfold.convert(path, tmp_path / "net.safetensors", to="safetensors", factory=Net, inputs=IMAGE, skip="*")
    assert torch.equal(run(files.folded_into_fresh(tmp_path / "net.safetensors"), IMAGE), run(files.net(), IMAGE))


# What makes no sense.


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("plain.pt --model checkpoint_files:Net --to onnx -o net.pt", "as --to says"),
        ("plain.pt --model checkpoint_files:Net -o net.safetensors", "or give --to safetensors"),
        ("plain.pt --pair conv=bn --to onnx", "it does not run"),
        ("plain.pt --pair conv=bn --to pt2", "it does not run"),
        ("small.onnx --to pt", "no module to export"),
        ("small.onnx --to pt2", "no module to export"),
        ("small.onnx --to safetensors", "no module to export"),
        ("plain.pt --model checkpoint_files:Net --to onnx --bench", "cannot be timed in one runtime"),
        ("plain.pt --model checkpoint_files:Net --to tflite", "tflite"),
        ("module.pt --trust-code --to safetensors --verify", "runs only with its architecture"),
    ],
)
def test_a_target_that_makes_no_sense_is_exit_2(bnfold: CommandLine, tmp_path: Path, words: str, said: str) -> None:
    from sample_models import NETWORKS

    written(files.STATE_FILES, "plain.pt", tmp_path)
    small = next(network.onnx() for network in NETWORKS if network.shipped)
    (tmp_path / "small.onnx").write_bytes(small.read_bytes())
    torch.save(files.net(), tmp_path / "module.pt")
    before = sorted(tmp_path.iterdir())
    outcome = bnfold("convert", *words.split())
    assert outcome.code == 2
    assert said in outcome.err
    assert len(outcome.err.splitlines()) <= 3
    assert sorted(tmp_path.iterdir()) == before


def test_what_torch_cannot_export_is_exit_3_in_words(tmp_path: Path) -> None:
    torch.save(shaken(Branches()), tmp_path / "net.pt")
    with pytest.raises(bnfold.BnfoldError, match="torch cannot export") as caught:
        bnfold.convert(tmp_path / "net.pt", tmp_path / "net.onnx", to="onnx", trust_code=True, inputs=IMAGE)
    assert caught.value.exit_code == 3
    assert len(str(caught.value).splitlines()) <= 3


def test_beside_an_onnx_model_a_checkpoint_is_run_on_what_that_says_it_takes(tmp_path: Path) -> None:
    source, exported = tmp_path / "state.pt", tmp_path / "net.onnx"
    torch.save(mixed().state_dict(), source)
    bnfold.convert(source, exported, to="onnx", factory=Mixed, inputs=(torch.randn(2, 3, 20, 24),))
    for pair in ((source, exported), (exported, source)):
        assert bnfold.verify(*pair, factory=Mixed).passed


class Branches(nn.Sequential):
    """Takes another path for another mean."""

    def __init__(self) -> None:
        super().__init__(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self[1](self[0](x)) if float(x.mean()) < 100 else x


def test_an_onnx_model_and_a_checkpoint_are_not_timed_in_one_runtime(tmp_path: Path) -> None:
    from sample_models import NETWORKS

    shipped = next(network.onnx() for network in NETWORKS if network.shipped)
    with pytest.raises(UsageError, match="cannot be timed"):
        bnfold.bench(shipped, written(files.STATE_FILES, "plain.pt", tmp_path), factory=Net)


@pytest.mark.mnist
def test_a_trained_network_goes_from_its_training_checkpoint_to_every_kind_without_a_flip(tmp_path: Path) -> None:
    from sample_models.smallcnn import smallcnn

    weights = Path(__file__).parents[2] / "sample_models" / "smallcnn.safetensors"
    network = bnfold.load_folded(smallcnn(), weights)
    optimiser = torch.optim.Adam(network.parameters())
    train = tmp_path / "train.pt"
    torch.save({"epoch": 12, "model": network.state_dict(), "optimizer": optimiser.state_dict()}, train)
    for to in TARGETS:
        bnfold.convert(train, tmp_path / f"folded.{to}", to=to, factory=smallcnn)
        options: dict[str, Any] = {"factory": smallcnn, "trust_code": to == "pt2"}
        report = bnfold.verify(train, tmp_path / f"folded.{to}", data="mnist", samples=500, **options)
        assert report.accuracy is not None
        assert (report.passed, report.accuracy.flips) == (True, 0)
        assert report.accuracy.original_correct > 490
