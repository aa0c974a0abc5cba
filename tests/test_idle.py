"""Options that would change nothing are refused with their reason; pyproject.toml may hold them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from cli_fixtures import CommandLine
from onnx import numpy_helper, parser
from torch import nn

import bnfold as api
from bnfold.errors import UsageError
from bnfold.records import InputSpec

SHAPE = (InputSpec((2, 3)),)


def network() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)).eval()


def the_keyword(options: dict[str, Any]) -> str:
    return next(iter(options))


@pytest.fixture(autouse=True)
def _files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``net.onnx`` (x (N, 3) → y), ``net.pt`` and ``net2.pt`` (state_dicts), and ``data.npz``, without labels."""
    proto = parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 15]> g (float[N,3] x) => (float[N,3] y) '
        "{ h = MatMul(x, w) y = BatchNormalization(h, g, b, m, v) }"
    )
    proto.graph.initializer.append(numpy_helper.from_array(np.eye(3, dtype=np.float32), "w"))
    for name, value in zip("gbmv", (1, 0, 0, 1), strict=True):
        proto.graph.initializer.append(numpy_helper.from_array(np.full(3, value, np.float32), name))
    onnx.save(proto, tmp_path / "net.onnx")
    torch.save(network().state_dict(), tmp_path / "net.pt")
    torch.save(network().state_dict(), tmp_path / "net2.pt")
    np.savez(tmp_path / "data.npz", x=np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32))
    monkeypatch.chdir(tmp_path)


MODULE = {"factory": network, "inputs": SHAPE}
REFUSED: dict[str, tuple[str, str, dict[str, Any], str]] = {
    "an architecture for ONNX": ("inspect", "net.onnx", {"factory": network}, "--model (factory=)"),
    "inputs for ONNX that is not run": ("convert", "net.onnx", {"inputs": SHAPE}, "--input (inputs=)"),
    "a key for ONNX": ("convert", "net.onnx", {"key": "ema"}, "--key (key=)"),
    "inputs for pairs": ("convert", "net.pt", {"pairs": ["0=1"], "inputs": SHAPE}, "--input (inputs=)"),
    "freezing a module": ("inspect", "net.pt", {**MODULE, "freeze": True}, "--freeze (freeze=)"),
    "joining a module's layers": (
        "convert",
        "net.pt",
        {**MODULE, "merge_parallel": True},
        "--merge-parallel (merge_parallel=)",
    ),
    "scaling random inputs": ("verify", "net.onnx", {"mean": 0.0}, "--mean (mean=)"),
    "flips without labels": ("verify", "net.onnx", {"max_flips": 2}, "--max-flips (max_flips=)"),
    "accuracy without labels": (
        "verify",
        "net.onnx",
        {"max_accuracy_drop": 0.0},
        "--max-accuracy-drop (max_accuracy_drop=)",
    ),
    "a seed of data": ("verify", "net.onnx", {"data": "data.npz", "seed": 3}, "--seed (seed=)"),
    "an architecture for two ONNX models": ("verify", "net.onnx", {"factory": network}, "--model (factory=)"),
    "an architecture to time ONNX": ("bench", "net.onnx", {"factory": network}, "--model (factory=)"),
    "a key to time ONNX": ("bench", "net.onnx", {"key": "ema"}, "--key (key=)"),
    "an architecture to calibrate ONNX": ("calibrate", "net.onnx", {"factory": network}, "--model (factory=)"),
}


@pytest.mark.parametrize(("command", "model", "options", "what"), REFUSED.values(), ids=REFUSED)
def test_is_refused_in_python(command: str, model: str, options: dict[str, Any], what: str) -> None:
    before = sorted(Path().iterdir())
    more = {"verify": ["net.onnx"], "bench": ["net.onnx"], "calibrate": ["data.npz", "out.onnx"]}.get(command, [])
    with pytest.raises(UsageError) as caught:
        getattr(api, command)(model, *more, **options)
    assert caught.value.what.startswith(f"{what} would change nothing here: ")
    assert caught.value.remedy == "leave it out"
    assert sorted(Path().iterdir()) == before


@pytest.mark.parametrize(
    "options",
    [{"factory": network}, {"key": "ema"}, {"freeze": True}, {"merge_parallel": True}],
    ids=the_keyword,
)
def test_is_refused_for_a_module_in_memory(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="would change nothing here"):
        api.fold(network(), **options)


@pytest.mark.parametrize(
    "options",
    [{"factory": network}, {"key": "ema"}, {"inputs": torch.ones(1, 3)}],
    ids=the_keyword,
)
def test_is_refused_for_an_onnx_model_in_memory(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="would change nothing here"):
        api.fold(onnx.load("net.onnx"), **options)


ON_THE_COMMAND_LINE = {
    "convert": "convert net.onnx --input 1x3",
    "convert, for none of several": "convert net.pt net2.pt --freeze --model somebody:net --out-dir out",
    "verify": "verify net.onnx net.onnx --std 2",
    "bench": "bench net.onnx net.onnx --model somebody:net",
}


@pytest.mark.parametrize("words", ON_THE_COMMAND_LINE.values(), ids=ON_THE_COMMAND_LINE)
def test_is_exit_code_2_on_the_command_line(bnfold: CommandLine, words: str) -> None:
    before = sorted(Path().iterdir())
    outcome = bnfold(*words.split())
    assert outcome.code == 2
    assert "would change nothing here" in outcome.err
    assert sorted(Path().iterdir()) == before


def test_permissions_may_be_given_and_not_needed(bnfold: CommandLine) -> None:
    assert bnfold("convert", "net.onnx", "--trust-code", "--force", "--hash-data").code == 0


def test_inputs_of_onnx_mean_something_where_it_is_run(bnfold: CommandLine) -> None:
    assert bnfold("convert", "net.onnx", "--verify", "--input", "1x3").code == 0
    assert bnfold("verify", "net.onnx", "net.folded.onnx", "--input", "1x3").code == 0


def test_of_several_models_each_takes_what_means_something_to_it(
    bnfold: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(Path.cwd()))
    code = "from torch import nn\ndef build(): return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))\n"
    Path("small_net.py").write_text(code, encoding="utf-8")
    outcome = bnfold("convert", "net.onnx", "net.pt", "--model", "small_net:build", "--freeze", "--input", "2x3")
    assert (outcome.code, outcome.err) == (0, "")
    assert Path("net.folded.onnx").is_file()
    assert Path("net.folded.pt").is_file()


def test_what_a_project_sets_for_other_models_is_no_mistake(bnfold: CommandLine) -> None:
    Path("pyproject.toml").write_text(
        "[tool.bnfold]\nmodel = 'my.nets:build'\ninput = '1x9'\nkey = 'ema'\n"
        "[tool.bnfold.verify]\nmean = 0.1\nmax-flips = 2\nseed = 4\ninput = '1x3'\n",
        encoding="utf-8",
    )
    for words in (
        "inspect net.onnx",
        "convert net.onnx -o out.onnx",
        "verify net.onnx out.onnx",
        "verify net.onnx out.onnx --data data.npz",
    ):
        outcome = bnfold(*words.split())
        assert (outcome.code, outcome.err.replace(UNLABELLED, "")) == (0, "")


UNLABELLED = (
    "warning: the data has no labels: neither flips nor accuracy were judged (--max-flips, --max-accuracy-drop)\n"
)


def test_a_verdict_on_labels_that_a_file_lacks_is_missed_in_the_report(bnfold: CommandLine) -> None:
    outcome = bnfold("verify", "net.onnx", "net.onnx", "--data", "data.npz", "--max-accuracy-drop", "0.01")
    assert (outcome.code, outcome.err) == (0, UNLABELLED)


@pytest.mark.parametrize("option", ["-o out.pt", "--verify", "--only x", "--report r.json", "--dry-run"])
def test_what_listing_pairs_has_no_use_for_is_refused(bnfold: CommandLine, option: str) -> None:
    outcome = bnfold("convert", "net.pt", "--pair", "auto", *option.split())
    assert outcome.code == 2
    assert "would change nothing" in outcome.err
    assert bnfold("convert", "net.pt", "--pair", "auto", "--format", "markdown").code == 2
