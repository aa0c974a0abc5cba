"""What goes to stdout, what to stderr, what into files, and with which exit code."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import sample_reports as sample
from cli_fixtures import Api, CommandLine

from bnfold.errors import (
    BnfoldError,
    CheckFailedError,
    DataError,
    InputError,
    InternalError,
    LimitError,
    OutputError,
    RequirementError,
    UnsafeError,
    UsageError,
)
from bnfold.records import Report
from bnfold.render.github import to_github
from bnfold.render.html import to_html
from bnfold.render.junit import to_junit
from bnfold.render.markdown import to_markdown
from bnfold.render.page import Page
from bnfold.render.text import to_text

COMMANDS: dict[str, tuple[str, Report]] = {
    "inspect": ("inspect m.onnx", sample.INSPECTION),
    "convert": ("convert m.onnx", sample.CONVERSION),
    "verify": ("verify m.onnx f.onnx", sample.PASSED),
    "bench": ("bench m.onnx f.onnx", sample.BENCHMARK),
}

# Failures


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (CheckFailedError, 1),
        (UsageError, 2),
        (InputError, 3),
        (UnsafeError, 4),
        (RequirementError, 5),
        (OutputError, 6),
        (DataError, 7),
        (LimitError, 8),
        (InternalError, 70),
    ],
)
def test_an_error_has_its_exit_code_and_at_most_three_lines(
    api: Api, bnfold: CommandLine, error: type[BnfoldError], code: int
) -> None:
    api.answers["inspect"] = error("cannot read m\x1b[2J\nonnx", where="in its head", remedy="export it again")
    outcome = bnfold("inspect", "m.onnx")
    assert outcome.code == code
    assert outcome.err == "error: cannot read m\\x1b[2J\\nonnx\n  in its head\n  export it again\n"
    assert outcome.out == ""


def test_an_error_without_place_and_remedy_is_one_line(api: Api, bnfold: CommandLine) -> None:
    api.answers["inspect"] = InputError("there is no file m.onnx")
    assert bnfold("inspect", "m.onnx").err == "error: there is no file m.onnx\n"


def test_a_bug_asks_to_be_reported_in_three_lines(api: Api, bnfold: CommandLine) -> None:
    api.answers["inspect"] = ZeroDivisionError("division by zero")
    outcome = bnfold("inspect", "m.onnx")
    assert outcome.code == 70
    lines = outcome.err.splitlines()
    assert lines[0] == "error: unexpected ZeroDivisionError: division by zero"
    assert "please report it" in lines[1]
    assert lines[2] == "  --debug shows where it happened"
    assert len(lines) == 3


@pytest.mark.parametrize("error", [ZeroDivisionError("division by zero"), InputError("no model")], ids=["bug", "error"])
def test_debug_shows_the_traceback(api: Api, bnfold: CommandLine, error: Exception) -> None:
    api.answers["inspect"] = error
    outcome = bnfold("inspect", "m.onnx", "--debug")
    assert "Traceback (most recent call last)" in outcome.err
    assert "--debug shows" not in outcome.err


@pytest.mark.parametrize(
    ("error", "what"),
    [
        pytest.param(MemoryError("Unable to allocate 570. TiB"), ": Unable to allocate 570. TiB", id="of NumPy's"),
        pytest.param(MemoryError(), "", id="bare"),
    ],
)
def test_too_little_memory_is_exit_code_8_and_no_bug(
    api: Api, bnfold: CommandLine, error: MemoryError, what: str
) -> None:
    api.answers["bench"] = error
    outcome = bnfold("bench", "m.onnx", "f.onnx")
    assert outcome.code == 8
    assert outcome.err.startswith(f"error: there is not enough memory{what}\n  use smaller inputs")


def test_the_end_of_a_file_inside_a_reader_is_a_bug_and_not_an_interrupt(api: Api, bnfold: CommandLine) -> None:
    api.answers["inspect"] = EOFError("Ran out of input")
    outcome = bnfold("inspect", "m.onnx")
    assert outcome.code == 70
    assert "unexpected EOFError: Ran out of input" in outcome.err


def test_ctrl_c_is_130(api: Api, bnfold: CommandLine) -> None:
    def interrupted(*_: Any, **__: Any) -> Report:
        raise KeyboardInterrupt

    api.answers["inspect"] = interrupted
    outcome = bnfold("inspect", "m.onnx")
    assert outcome.code == 130
    assert outcome.err.strip() == "interrupted"


@pytest.mark.parametrize("form", ["text", "json"])
def test_the_report_of_an_error_is_the_result(api: Api, bnfold: CommandLine, form: str) -> None:
    api.answers["convert"] = CheckFailedError("the models differ", report=sample.FAILED)
    outcome = bnfold("convert", "m.onnx", "--format", form, "--report", "r.json")
    assert outcome.code == 1
    assert outcome.out == (to_text(sample.FAILED, Page()) if form == "text" else sample.FAILED.to_json() + "\n")
    assert outcome.err.endswith("error: the models differ\n")
    assert json.loads(Path("r.json").read_text(encoding="utf-8"))["passed"] is False


@pytest.mark.parametrize(
    ("words", "lines"),
    [
        pytest.param("inspect m.onnx", ["::error title=bnfold::in its head: it is cut short"], id="one model"),
        pytest.param("convert a b", ["::error title=bnfold::in its head: it is cut short"] * 2, id="each of several"),
        pytest.param("inspect m.onnx --quiet --format text", [], id="in no other form"),
    ],
)
def test_work_that_ends_without_a_report_is_annotated(
    api: Api, bnfold: CommandLine, words: str, lines: list[str]
) -> None:
    api.answers |= dict.fromkeys(("inspect", "convert"), InputError("it is cut short", where="in its head"))
    command, *rest = words.split()
    outcome = bnfold(command, "--format", "github", *rest)
    assert outcome.code == 3
    assert outcome.out.splitlines() == lines


# Verdicts


def test_models_that_differ_are_exit_code_1(api: Api, bnfold: CommandLine) -> None:
    api.answers["verify"] = sample.FAILED
    outcome = bnfold("verify", "m.onnx", "f.onnx")
    assert outcome.code == 1
    assert outcome.out.endswith("\nFAIL\n")


def test_a_model_that_is_slower_than_allowed_is_exit_code_1(api: Api, bnfold: CommandLine) -> None:
    api.answers["bench"] = dataclasses.replace(sample.BENCHMARK, passed=False)
    assert bnfold("bench", "m.onnx", "f.onnx").code == 1


def test_no_batch_norm_is_no_failure(api: Api, bnfold: CommandLine) -> None:
    api.answers["inspect"] = sample.NOTHING_FOUND
    outcome = bnfold("inspect", "m.onnx")
    assert outcome.code == 0
    assert outcome.out.endswith("found 0 batch norms\n")


# Streams and files


@pytest.mark.parametrize(("words", "report"), COMMANDS.values(), ids=COMMANDS)
def test_the_text_is_on_stdout(api: Api, bnfold: CommandLine, words: str, report: Report) -> None:
    outcome = bnfold(*words.split())
    assert outcome.code == 0
    assert outcome.out == to_text(report, Page())
    assert len(api.calls) == 1


@pytest.mark.parametrize(("words", "report"), COMMANDS.values(), ids=COMMANDS)
def test_json_is_alone_on_stdout(api: Api, bnfold: CommandLine, words: str, report: Report) -> None:
    outcome = bnfold(*words.split(), "--format", "json")
    assert json.loads(outcome.out) == report.to_dict()
    assert len(api.calls) == 1


@pytest.mark.parametrize(("words", "report"), COMMANDS.values(), ids=COMMANDS)
def test_other_forms_are_alone_on_stdout(api: Api, bnfold: CommandLine, words: str, report: Report) -> None:
    assert bnfold(*words.split(), "--format", "markdown").out == to_markdown(report)
    assert bnfold(*words.split(), "--format", "github").out == to_github(report)
    assert bnfold(*words.split(), "--format", "junit").out == to_junit([report])
    assert len(api.calls) == 3


def test_verbose_says_more(api: Api, bnfold: CommandLine) -> None:
    assert bnfold("inspect", "m.onnx", "--verbose").out == to_text(sample.INSPECTION, Page(details=True))
    assert len(api.calls) == 1


def test_warnings_are_on_stderr_unless_quiet(api: Api, bnfold: CommandLine) -> None:
    warning = "warning: the model has no opset import\n"
    assert warning in bnfold("inspect", "m.onnx").err
    assert bnfold("inspect", "m.onnx", "--quiet").err == ""
    assert len(api.calls) == 2


def test_what_work_prints_is_not_in_the_result(api: Api, bnfold: CommandLine) -> None:
    def noisy(*_: Any, **__: Any) -> Report:
        sys.stdout.write("loading…\n")
        return sample.INSPECTION

    api.answers["inspect"] = noisy
    outcome = bnfold("inspect", "m.onnx", "--format", "json")
    assert json.loads(outcome.out)
    assert "loading…\n" in outcome.err


def test_reports_are_written_in_the_form_of_their_suffix(api: Api, bnfold: CommandLine) -> None:
    Path("r.json").write_text("an older report", encoding="utf-8")
    outcome = bnfold("inspect", "m.onnx", "--report", "r.json", "--report", "r.TXT", "--report", "r.md")
    also = bnfold("inspect", "m.onnx", "--report", "r.xml", "--report", "r.html")
    assert also.out == outcome.out
    assert outcome.code == 0
    assert Path("r.json").read_text(encoding="utf-8") == sample.INSPECTION.to_json() + "\n"
    text = Path("r.TXT").read_text(encoding="utf-8")
    assert text.startswith(to_text(sample.INSPECTION, Page()))
    assert text.endswith("warning: the model has no opset import\n")
    assert Path("r.md").read_text(encoding="utf-8") == to_markdown(sample.INSPECTION)
    assert Path("r.xml").read_text(encoding="utf-8") == to_junit([sample.INSPECTION])
    assert Path("r.html").read_text(encoding="utf-8") == to_html([sample.INSPECTION])
    assert len(api.calls) == 2


@pytest.mark.parametrize(
    "words", ["inspect m.onnx", "convert m.onnx", "convert m.onnx n.onnx", "verify a b", "bench a b"]
)
def test_external_data_is_hashed_on_request(api: Api, bnfold: CommandLine, words: str) -> None:
    Path("models").mkdir()
    Path("models/model.data").write_bytes(b"weights")
    found = [bnfold(*words.split(), "--format", "json", *more).out for more in ([], ["--hash-data"])]
    without, hashed = (json.loads(out)[0] if " n.onnx" in words else json.loads(out) for out in found)
    assert without["source"]["external"][0]["sha256"] is None
    assert hashed["source"]["external"][0]["sha256"] == hashlib.sha256(b"weights").hexdigest()
    if hashed.get("verification"):
        assert hashed["verification"]["source"] == hashed["source"]
    assert api.calls


def test_external_data_that_is_gone_cannot_be_hashed(api: Api, bnfold: CommandLine) -> None:
    outcome = bnfold("inspect", "m.onnx", "--hash-data")
    assert outcome.code == 3
    assert "cannot read models/model.data" in outcome.err
    assert len(api.calls) == 1


def test_a_report_that_cannot_be_written_is_known_before_any_work(api: Api, bnfold: CommandLine) -> None:
    outcome = bnfold("inspect", "m.onnx", "--report", "reports/r.json")
    assert outcome.code == 6
    assert "there is no folder" in outcome.err
    assert api.calls == []


@pytest.mark.parametrize(
    "words",
    [
        "inspect m.json --report m.json",
        "verify m.onnx m.json --report ./m.json",
        "bench a.onnx b.onnx m.json --report m.json",
        "convert m.onnx -o m.json --report m.json",
        "convert m.onnx -o new.json --report ./new.json",
        "inspect m.json --report link.json",
    ],
)
def test_a_report_never_replaces_a_model(api: Api, bnfold: CommandLine, words: str) -> None:
    Path("m.json").write_bytes(b"model")
    Path("link.json").symlink_to("m.json")
    outcome = bnfold(*words.split())
    assert outcome.code == 2
    assert "would replace a model\n  choose another name\n" in outcome.err
    assert api.calls == []
    assert Path("m.json").read_bytes() == b"model"


def test_progress_reaches_the_work(api: Api, bnfold: CommandLine) -> None:
    seen = []

    def working(*_: Any, **keywords: Any) -> Report:
        keywords["progress"]("verifying", 1, 2)
        seen.append("progress")
        return sample.PASSED

    for name in ("convert", "verify", "bench"):
        api.answers[name] = working
        assert bnfold(name, "m.onnx", *(["f.onnx"] if name != "convert" else [])).err.count("verifying") == 0
    assert seen == ["progress"] * 3


def test_the_working_folder_is_left_as_it_was(api: Api, bnfold: CommandLine) -> None:
    bnfold("convert", "m.onnx")
    assert len(api.calls) == 1
    assert list(Path.cwd().iterdir()) == []
