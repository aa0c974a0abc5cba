"""Every option reaches the API under its name, and what it refuses is refused before the API is called."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from cli_fixtures import Api, CommandLine

from bnfold.records import InputSpec

REFUSED = {
    "an unknown option": ("inspect m.onnx --frmat json", "No such option '--frmat'. Did you mean '--format'?"),
    "an unknown command": ("inspct m.onnx", "No such command 'inspct'. Did you mean 'inspect'?"),
    "no model": ("inspect", "Missing argument 'MODEL'."),
    "no folded model": ("verify m.onnx", "Missing argument 'FOLDED'."),
    "two models to inspect": ("inspect m.onnx n.onnx", "Got unexpected extra argument (n.onnx)"),
    "an unknown format": (
        "inspect m.onnx --format xml",
        "'xml' is not one of 'text', 'json', 'markdown', 'github', 'junit'.",
    ),
    "a report of unknown form": (
        "inspect m.onnx --report r.pdf",
        "'r.pdf': the name must end in .json, .md, .txt, .xml or .html",
    ),
    "a report without suffix": (
        "inspect m.onnx --report r",
        "'r': the name must end in .json, .md, .txt, .xml or .html",
    ),
    "a shape with commas": ("inspect m.onnx --input 1,3", "'1,3': expected a shape such as 1x3x224x224"),
    "an empty shape": ("inspect m.onnx --input x=", "'x=': expected a shape"),
    "a size of zero": ("inspect m.onnx --input 1x0", "'1x0': every size is at least 1."),
    "an unknown dtype": ("inspect m.onnx --input 1x3:f31", "'1x3:f31': the dtype is one of f16, bf16, f32"),
    "a factory without a colon": ("inspect m.pt --model nets", "'nets': expected pkg.module:factory"),
    "a factory that is a file": ("inspect m.pt --model nets.py:a/b", "expected pkg.module:factory"),
    "a tolerance that is no number": ("verify a b --atol logits", "'logits': expected a number such as 1e-5"),
    "a tolerance below zero": ("verify a b --rtol=-1", "'-1': expected a number"),
    "a tolerance that is not finite": ("verify a b --rtol y:inf", "'y:inf': expected a number"),
    "flips below zero": ("verify a b --max-flips=-1", "-1 is not in the range x>=0"),
    "an accuracy drop in percent": ("verify a b --max-accuracy-drop 5", "5.0 is not in the range 0<=x<=1"),
    "no samples": ("verify a b --samples 0", "0 is not in the range x>=1"),
    "a scale of its own": ("verify a b --scale 128", "'128' is not one of '1', '255'"),
    "a standard deviation of zero": ("verify a b --std 0", "0.0 is not in the range x>0"),
    "a batch that is no number": ("bench a b --batch 1,many", "'1,many': expected whole numbers such as 1,32,1000."),
    "a batch of zero": ("bench a b --batch 0", "'0': expected whole numbers"),
    "an unknown runtime": ("bench a b --runtime tvm", "'tvm' is not one of 'ort', 'ort-off', 'torch'."),
    "a mean that is no number": ("verify a b --mean nan", "'nan' is no finite number."),
    "a mean that is a word": ("verify a b --mean dark", "'dark' is not a valid number."),
    "a standard deviation without end": ("verify a b --std inf", "'inf' is no finite number."),
    "a limit that nothing could pass": ("bench a b --fail-if-slower nan", "'nan' is no finite number."),
    "an accuracy drop that is no number": ("verify a b --max-accuracy-drop nan", "'nan' is no finite number."),
    "more threads than any machine runs": ("bench a b --threads 100000", "100000 is not in the range 1<=x<=1024"),
    "a data set without its name": ("data fetch", "Missing argument 'mnist'. Choose from: mnist"),
    "no time": ("bench a b --min-seconds 0", "0.0 is not in the range x>0"),
    "what to require": ("convert m.onnx --require-fold=most", "'most' is not one of 'any', 'all'."),
}


@pytest.mark.parametrize(("words", "message"), REFUSED.values(), ids=REFUSED)
def test_is_refused_in_three_lines_with_exit_code_2(api: Api, bnfold: CommandLine, words: str, message: str) -> None:
    outcome = bnfold(*words.split())
    lines = outcome.err.splitlines()
    assert outcome.code == 2
    assert lines[0].startswith("error: ")
    assert message in lines[0]
    assert lines[1].startswith("  Usage: bnfold ")
    assert lines[2].endswith("--help lists the options")
    assert len(lines) == 3
    assert outcome.out == ""
    assert api.calls == []


@pytest.mark.parametrize("words", ["inspect m", "convert m -o m", "verify m m", "bench m m m"], ids=str)
def test_whether_a_file_can_be_read_is_left_to_its_reader(
    api: Api, bnfold: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: str
) -> None:
    (tmp_path / "m").touch()
    monkeypatch.setattr("os.access", lambda *_: False)
    bnfold(*words.split())
    assert [call[0] for call in api.calls] == [words.split(maxsplit=1)[0]]


MODEL: dict[str, Any] = {"factory": None, "inputs": None, "trust_code": False, "key": None}
PLAN: dict[str, Any] = {**MODEL, "freeze": False, "only": (), "skip": (), "merge_parallel": False}
CONVERT: dict[str, Any] = {
    **PLAN,
    "force": False,
    "verify": None,
    "dry_run": False,
    "check": False,
    "bench": False,
    "require_fold": None,
    "pairs": (),
    "eps": None,
    "to": None,
    "keep_architecture": False,
}
VERIFY: dict[str, Any] = {
    **MODEL,
    "data": "random",
    "samples": None,
    "batch": None,
    "seed": 0,
    "atol": None,
    "rtol": None,
    "max_flips": 0,
    "layers": False,
    "max_accuracy_drop": None,
    "mean": None,
    "std": None,
    "scale": None,
}
BENCH: dict[str, Any] = {
    **MODEL,
    "batch": (1, 32),
    "runtime": None,
    "threads": None,
    "min_seconds": 1.0,
    "fail_if_slower": None,
}
IMAGE = InputSpec((1, 3, 224, 224), "float32")
TOKENS = InputSpec((1, 128), "int64", "input:0")

PASSED_ON: dict[str, tuple[str, dict[str, Any]]] = {
    "inspect": ("inspect m.onnx", PLAN),
    "--model": ("inspect m.pt --model my.nets:build", {**PLAN, "factory": "my.nets:build"}),
    "--model, an attribute": ("inspect m.pt --model nets:Net.small", {**PLAN, "factory": "nets:Net.small"}),
    "--input": ("inspect m.pt --input 1x3x224x224", {**PLAN, "inputs": (IMAGE,)}),
    "--input with a dtype": ("inspect m.pt --input 1:bf16", {**PLAN, "inputs": (InputSpec((1,), "bfloat16"),)}),
    "--input with a long dtype": ("inspect m.pt --input 1:uint8", {**PLAN, "inputs": (InputSpec((1,), "uint8"),)}),
    "--input, named, twice": (
        "inspect m.pt --input image=1x3x224x224:f32 --input input:0=1x128:i64",
        {**PLAN, "inputs": (InputSpec((1, 3, 224, 224), "float32", "image"), TOKENS)},
    ),
    "--input with = in the name": ("inspect m --input a=b=1", {**PLAN, "inputs": (InputSpec((1,), "float32", "a=b"),)}),
    "--key": ("inspect m.pt --key ema", {**PLAN, "key": "ema"}),
    "--trust-code": ("inspect m.pt --trust-code", {**PLAN, "trust_code": True}),
    "--freeze": ("inspect m.onnx --freeze", {**PLAN, "freeze": True}),
    "--merge-parallel": ("inspect m.onnx --merge-parallel", {**PLAN, "merge_parallel": True}),
    "--only, --skip": ("inspect m.onnx --only a* --only b --skip *c", {**PLAN, "only": ("a*", "b"), "skip": ("*c",)}),
    "convert": ("convert m.onnx", CONVERT),
    "convert flags": (
        "convert m.onnx --force --dry-run --check --bench",
        {**CONVERT, "force": True, "dry_run": True, "check": True, "bench": True},
    ),
    "verify": ("verify a b", VERIFY),
    "verify data": (
        "verify a b --data x.npz --samples 9 --batch 3 --seed 7",
        {**VERIFY, "data": "x.npz", "samples": 9, "batch": 3, "seed": 7},
    ),
    "verify tolerances": (
        "verify a b --atol 1e-3 --atol y:0.5 --rtol output:0:1e-4",
        {**VERIFY, "atol": {"": 1e-3, "y": 0.5}, "rtol": {"output:0": 1e-4}},
    ),
    "verify labels": (
        "verify a b --max-flips 2 --max-accuracy-drop 0.001",
        {**VERIFY, "max_flips": 2, "max_accuracy_drop": 0.001},
    ),
    "verify scaling": (
        "verify a b --mean 0.1307 --std 0.3081 --scale 255",
        {**VERIFY, "mean": 0.1307, "std": 0.3081, "scale": 255.0},
    ),
    "bench": ("bench a b", BENCH),
    "bench options": (
        "bench a b --batch 1000,1,1 --runtime ort --runtime torch --threads 1 --min-seconds 0.5 --fail-if-slower 5",
        {
            **BENCH,
            "batch": (1000, 1),
            "runtime": ("ort", "torch"),
            "threads": 1,
            "min_seconds": 0.5,
            "fail_if_slower": 5.0,
        },
    ),
}


@pytest.mark.parametrize(("words", "options"), PASSED_ON.values(), ids=PASSED_ON)
def test_reaches_the_api(api: Api, bnfold: CommandLine, words: str, options: dict[str, Any]) -> None:
    assert bnfold(*words.split()).code == 0
    assert api.options == options


def test_bench_takes_more_than_two_models(api: Api, bnfold: CommandLine) -> None:
    bnfold("bench", "a", "b", "c", "d")
    assert api.calls[0][1] == (Path("a"), Path("b"), Path("c"), Path("d"))


def test_a_name_that_begins_with_a_dash_follows_two_dashes(api: Api, bnfold: CommandLine) -> None:
    bnfold("convert", "--", "--verify", "-o")
    assert [call[1][0] for call in api.calls] == [Path("--verify"), Path("-o")]
    assert api.calls[0][2]["verify"] is None
