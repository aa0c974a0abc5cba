from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import sample_reports as sample
from cli_fixtures import Api, CommandLine

from bnfold.errors import CheckFailedError, InputError
from bnfold.records import Report
from bnfold.render.junit import to_junit
from bnfold.render.page import Page
from bnfold.render.text import to_text

# Refusals

CLASHES = {
    "--output for two models": ("a.onnx b.onnx -o out.onnx", "--output names one file, but there are 2 MODELs"),
    "--output to stdout": ("a.onnx -o -", "--output - stands for stdout, to which no model is written"),
    "--output and --out-dir": ("a.onnx -o out.onnx --out-dir out", "--output and --out-dir exclude each other"),
    "one model twice": ("a.onnx a.onnx", "a.onnx and a.onnx would both be written to a.folded.onnx"),
    "one model by two names": ("a.onnx ./x/../a.onnx", "would both be written to"),
    "one name in one folder": ("x/a.onnx y/a.onnx --out-dir out", "x/a.onnx and y/a.onnx would both be written to out"),
    "one output another's input": ("a.onnx a.folded.onnx", "a.onnx would be written over a.folded.onnx"),
}


@pytest.mark.parametrize(("words", "message"), CLASHES.values(), ids=CLASHES)
def test_a_clash_of_outputs_is_exit_code_2_before_any_work(
    api: Api, bnfold: CommandLine, words: str, message: str
) -> None:
    outcome = bnfold("convert", *words.split())
    assert outcome.code == 2
    assert message in outcome.err
    assert len(outcome.err.splitlines()) <= 3
    assert api.calls == []


def test_a_folder_that_cannot_be_made_is_exit_code_6(api: Api, bnfold: CommandLine) -> None:
    Path("out").touch()
    outcome = bnfold("convert", "a.onnx", "--out-dir", "out")
    assert outcome.code == 6
    assert "cannot create the folder out: File exists" in outcome.err
    assert api.calls == []


# Optional values


@pytest.mark.parametrize(
    ("words", "models", "verify"),
    [
        pytest.param("--verify a.onnx", ["a.onnx"], "random", id="alone, before a model"),
        pytest.param("--verify a.onnx b.onnx", ["a.onnx", "b.onnx"], "random", id="alone, before two models"),
        pytest.param("a.onnx --verify", ["a.onnx"], "random", id="alone, at the end"),
        pytest.param("--verify --force a.onnx", ["a.onnx"], "random", id="alone, before an option"),
        pytest.param("--verify=mnist a.onnx", ["a.onnx"], "mnist", id="with ="),
        pytest.param("--verify mnist a.onnx", ["a.onnx"], "mnist", id="with a name"),
        pytest.param("--verify random a.onnx", ["a.onnx"], "random", id="with the default's name"),
        pytest.param("--verify x.npz a.onnx", ["a.onnx"], "x.npz", id="with an archive"),
        pytest.param("--verify digits a.onnx", ["a.onnx"], "digits", id="with a folder"),
        pytest.param("--verify=a.onnx b.onnx", ["b.onnx"], "a.onnx", id="whatever follows ="),
        pytest.param("a.onnx", ["a.onnx"], None, id="not given"),
    ],
)
def test_verify_takes_data_and_never_a_model(
    api: Api, bnfold: CommandLine, words: str, models: list[str], verify: str | None
) -> None:
    Path("digits").mkdir()
    assert bnfold("convert", *words.split()).code == 0
    assert [str(call[1][0]) for call in api.calls] == models
    assert {call[2]["verify"] for call in api.calls} == {verify}


@pytest.mark.parametrize(
    ("words", "require_fold"),
    [
        pytest.param("--require-fold a.onnx", "any", id="alone, before a model"),
        pytest.param("a.onnx --require-fold", "any", id="alone, at the end"),
        pytest.param("--require-fold all a.onnx", "all", id="with a value"),
        pytest.param("--require-fold=all a.onnx", "all", id="with ="),
        pytest.param("--require-fold --verify a.onnx", "any", id="alone, before an option"),
        pytest.param("a.onnx", None, id="not given"),
    ],
)
def test_require_fold_takes_any_or_all_and_never_a_model(
    api: Api, bnfold: CommandLine, words: str, require_fold: str | None
) -> None:
    assert bnfold("convert", *words.split()).code == 0
    assert [str(call[1][0]) for call in api.calls] == ["a.onnx"]
    assert api.options["require_fold"] == require_fold


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--require-fold maybe a.onnx", "'maybe' behind --require-fold is neither its value (any or all) nor a file"),
        ("a.onnx --require-fold ALL", "'ALL' behind --require-fold is neither its value (any or all) nor a file"),
        (
            "--verify cifar a.onnx",
            "'cifar' behind --verify is neither its value (mnist, random, FILE.npz or DIR) nor a file",
        ),
    ],
)
def test_a_word_that_can_be_neither_the_value_nor_a_model_is_told_what_values_there_are(
    api: Api, bnfold: CommandLine, words: str, message: str
) -> None:
    outcome = bnfold("convert", *words.split())
    assert outcome.code == 2
    assert message in outcome.err.splitlines()[0]
    assert len(outcome.err.splitlines()) == 3
    assert api.calls == []


def test_a_model_without_a_suffix_that_is_there_may_follow(api: Api, bnfold: CommandLine) -> None:
    Path("model").touch()
    assert bnfold("convert", "--require-fold", "model").code == 0
    assert api.calls[0][1][0] == Path("model")


# Outputs


@pytest.mark.parametrize(
    ("words", "outputs"),
    [
        pytest.param("x/a.onnx", ["x/a.folded.onnx"], id="beside the model"),
        pytest.param("x/a.onnx -o b.onnx", ["b.onnx"], id="--output"),
        pytest.param("x/a.onnx y/b.pt --out-dir new/out", ["new/out/a.folded.onnx", "new/out/b.folded.pt"], id="dir"),
    ],
)
def test_where_outputs_go(api: Api, bnfold: CommandLine, words: str, outputs: list[str]) -> None:
    assert bnfold("convert", *words.split()).code == 0
    assert [str(call[1][1]) for call in api.calls] == outputs


@pytest.mark.parametrize("option", ["--dry-run", "--check"])
def test_no_folder_is_made_where_nothing_is_written(api: Api, bnfold: CommandLine, option: str) -> None:
    assert bnfold("convert", "a.onnx", "--out-dir", "out", option).code == 0
    assert not Path("out").exists()
    assert len(api.calls) == 1


@pytest.mark.parametrize("models", ["missing.onnx", "missing.onnx broken.onnx"], ids=["one model", "several"])
@pytest.mark.parametrize("existing", ["", "new"], ids=["no folder yet", "a folder above it"])
def test_no_folder_stays_where_nothing_came_of_it(api: Api, bnfold: CommandLine, models: str, existing: str) -> None:
    Path(existing).mkdir(exist_ok=True)
    api.answers["convert"] = mixed
    assert bnfold("convert", *models.split(), "--out-dir", "new/out").code >= 3
    assert list(Path().rglob("*")) == [Path(name) for name in [existing] if name]


def test_a_folder_stays_that_was_there_or_has_got_an_output(api: Api, bnfold: CommandLine) -> None:
    def writing(model: Path, out: Path, **keywords: Any) -> Report:
        out.touch()
        return mixed(model, **keywords)

    Path("empty").mkdir()
    api.answers["convert"] = mixed
    assert bnfold("convert", "missing.onnx", "--out-dir", "empty").code == 3
    api.answers["convert"] = writing
    assert bnfold("convert", "a.onnx", "missing.onnx", "--out-dir", "new/out").code == 3
    assert Path("empty").is_dir()
    assert Path("new/out/a.folded.onnx").is_file()


# Several models


def mixed(model: Path, *_: Any, **__: Any) -> Report:
    if model.name == "missing.onnx":
        raise InputError("there is no file missing.onnx")
    if model.name == "broken.onnx":
        raise ZeroDivisionError("division by zero")
    if model.name == "other.onnx":
        raise CheckFailedError("the models differ", report=sample.FAILED)
    return sample.INSPECTION


@pytest.mark.parametrize(
    ("models", "code"),
    [
        pytest.param("a.onnx b.onnx", 0, id="all well"),
        pytest.param("a.onnx other.onnx b.onnx", 1, id="one differs"),
        pytest.param("missing.onnx other.onnx a.onnx", 3, id="one is missing"),
        pytest.param("broken.onnx missing.onnx other.onnx", 70, id="one meets a bug"),
    ],
)
def test_all_are_converted_and_the_worst_exit_code_is_returned(
    api: Api, bnfold: CommandLine, models: str, code: int
) -> None:
    api.answers["convert"] = mixed
    assert bnfold("convert", *models.split()).code == code
    assert [str(call[1][0]) for call in api.calls] == models.split()


def test_an_error_names_its_model(api: Api, bnfold: CommandLine) -> None:
    api.answers["convert"] = mixed
    outcome = bnfold("convert", "missing.onnx", "other.onnx", "broken.onnx", "--quiet")
    errors = [line for line in outcome.err.splitlines() if line.startswith("error: ")]
    assert errors == [
        "error: there is no file missing.onnx",
        "error: other.onnx: the models differ",
        "error: broken.onnx: unexpected ZeroDivisionError: division by zero",
    ]


def test_texts_follow_each_other(api: Api, bnfold: CommandLine) -> None:
    api.answers["convert"] = mixed
    outcome = bnfold("convert", "a.onnx", "missing.onnx", "other.onnx", "--report", "r.txt", "--quiet")
    assert outcome.out == to_text(sample.INSPECTION, Page()) + "\n" + to_text(sample.FAILED, Page())
    assert Path("r.txt").read_text(encoding="utf-8").startswith(outcome.out)


def test_json_is_a_list_of_the_reports_there_are(api: Api, bnfold: CommandLine) -> None:
    api.answers["convert"] = mixed
    outcome = bnfold("convert", "a.onnx", "missing.onnx", "other.onnx", "--format", "json", "--report", "r.json")
    assert json.loads(outcome.out) == [sample.INSPECTION.to_dict(), sample.FAILED.to_dict()]
    assert Path("r.json").read_text(encoding="utf-8") == outcome.out


def test_junit_is_one_document(api: Api, bnfold: CommandLine) -> None:
    api.answers["convert"] = mixed
    outcome = bnfold("convert", "a.onnx", "other.onnx", "--format", "junit")
    assert outcome.out == to_junit([sample.INSPECTION, sample.FAILED])


def test_json_is_an_empty_list_where_all_failed(api: Api, bnfold: CommandLine) -> None:
    api.answers["convert"] = mixed
    assert json.loads(bnfold("convert", "missing.onnx", "x/missing.onnx", "--format", "json").out) == []


def test_an_interrupt_stops_them_all(api: Api, bnfold: CommandLine) -> None:
    def interrupted(*_: Any, **__: Any) -> Report:
        raise KeyboardInterrupt

    api.answers["convert"] = interrupted
    assert bnfold("convert", "a.onnx", "b.onnx").code == 130
    assert len(api.calls) == 1
