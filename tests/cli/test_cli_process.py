"""What only a process of its own can show: signals, pipes, closed and full streams, native output, terminals."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import sample_reports as sample

from bnfold import __version__
from bnfold.render.page import Page
from bnfold.render.text import to_text

pytestmark = pytest.mark.skipif(os.name == "nt", reason="POSIX signals, pipes and terminals")

STAND_IN = [sys.executable, str(Path(__file__).with_name("stand_in_process.py"))]
TEXT = to_text(sample.INSPECTION, Page())


def environment(**changes: str) -> dict[str, str]:
    kept = {
        name: value for name, value in os.environ.items() if name not in {"NO_COLOR", "COLUMNS", "PYTHONIOENCODING"}
    }
    return kept | {"PYTHONPATH": str(Path(__file__).parent.parent), "TERM": "xterm"} | changes


def finished(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
    streams: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "env": environment()} | options
    ended: subprocess.CompletedProcess[str] = subprocess.run(command, text=True, check=False, **streams)  # noqa: S603 - ours
    return ended


def bnfold(*words: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return finished([*STAND_IN, *words], **options)


def by_shell(words: str) -> subprocess.CompletedProcess[str]:
    """The command line with redirections of the shell's."""
    return finished(["/bin/sh", "-c", f'exec "$0" "$1" {words}', *STAND_IN])


# Signals


@pytest.mark.parametrize(
    ("number", "code", "message"),
    [
        pytest.param(signal.SIGINT, 130, "interrupted\n", id="SIGINT"),
        pytest.param(signal.SIGTERM, 143, "", id="SIGTERM"),
        pytest.param(signal.SIGHUP, 129, "", id="SIGHUP, as where the terminal is closed"),
    ],
)
@pytest.mark.parametrize("existing", [True, False], ids=["over an old file", "a new file"])
def test_a_signal_leaves_the_folder_as_it_was(
    tmp_path: Path, number: int, code: int, message: str, *, existing: bool
) -> None:
    output = tmp_path / "out.onnx"
    if existing:
        output.write_bytes(b"old")
    command = [*STAND_IN, "convert", "m.onnx", "-o", str(output), "--force"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment()) as process:  # noqa: S603
        assert process.stderr is not None
        assert process.stderr.readline() == "writing\n"
        assert len(list(tmp_path.iterdir())) == 1 + existing
        process.send_signal(number)
        said = process.stderr.read()
    assert process.returncode == code
    assert said.replace("writing\n", "").lstrip() == message
    assert {path.name for path in tmp_path.iterdir()} == ({"out.onnx"} if existing else set())
    assert not existing or output.read_bytes() == b"old"


INTERRUPTED_AT = """
import os, signal, sys

class Interrupting:
    def find_spec(self, name, *_):
        if name == sys.argv[1]:
            sys.argv[1] = "--version"
            os.kill(os.getpid(), signal.SIGINT)

signal.signal(signal.SIGINT, signal.default_int_handler)
sys.meta_path.insert(0, Interrupting())
from bnfold.cli import main
main()
"""


@pytest.mark.parametrize("module", ["bnfold.cli.entry", "click", "bnfold.errors"])
def test_an_interrupt_while_click_is_imported_shows_no_traceback(module: str) -> None:
    outcome = finished([sys.executable, "-c", INTERRUPTED_AT, module])
    assert (outcome.returncode, outcome.stdout, outcome.stderr) == (130, "", "interrupted\n")


def test_a_program_in_the_background_goes_on_ignoring_interrupts() -> None:
    outcome = finished([sys.executable, "-c", INTERRUPTED_AT.replace("default_int_handler", "SIG_IGN"), "click"])
    assert (outcome.returncode, outcome.stdout) == (0, f"bnfold {__version__}\n")


# Pipes and streams


@pytest.mark.parametrize("form", ["text", "json"])
def test_stdout_is_the_result_alone_whoever_else_prints(form: str) -> None:
    outcome = bnfold("inspect", "loud.onnx", "--format", form)
    assert outcome.returncode == 0
    assert outcome.stdout == (TEXT if form == "text" else sample.INSPECTION.to_json() + "\n")
    for words in ("python prints", "a library writes", "a library prints", "a library says goodbye"):
        assert f"{words}\n" in outcome.stderr


@pytest.mark.parametrize(
    ("words", "code"),
    [
        pytest.param("verify m.onnx m.onnx --quiet", 0, id="passed"),
        pytest.param("verify m.onnx other.onnx --quiet", 1, id="failed"),
        pytest.param("inspect many.onnx --quiet", 0, id="more than a buffer holds"),
        pytest.param("convert --help", 0, id="click's own help"),
    ],
)
def test_a_reader_who_has_gone_is_no_error(words: str, code: int) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    outcome = bnfold(*words.split(), stdout=writing)
    os.close(writing)
    assert outcome.returncode == code
    assert outcome.stderr == ""


def test_nobody_reading_stderr_is_no_error() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    outcome = bnfold("inspect", "m.onnx", stderr=writing)
    os.close(writing)
    assert outcome.returncode == 0
    assert outcome.stdout == TEXT


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("words", ["inspect m.onnx --quiet", "inspect many.onnx --quiet", "--help", "--version"])
def test_a_full_disk_under_stdout_is_exit_code_6(words: str) -> None:
    outcome = by_shell(f"{words} > /dev/full")
    assert outcome.returncode == 6
    assert outcome.stderr == "error: cannot write the result to stdout: No space left on device\n"


@pytest.mark.parametrize(("closed", "code"), [(">&-", 0), ("2>&-", 0), ("<&-", 0), (">&- 2>&- <&-", 0)], ids=str)
def test_a_stream_that_is_closed_is_no_error(closed: str, code: int) -> None:
    outcome = by_shell(f"inspect loud.onnx {closed}")
    assert outcome.returncode == code
    assert outcome.stdout == ("" if ">&-" in closed.replace("2>&-", "") else TEXT)


def test_an_error_has_its_exit_code_where_stderr_is_closed() -> None:
    assert by_shell("inspect --nonsense 2>&-").returncode == 2


def test_a_letter_that_the_encoding_lacks_is_escaped() -> None:
    outcome = bnfold("explain", "105", env=environment(PYTHONIOENCODING="latin-1"))
    assert outcome.returncode == 0
    assert r"variance + \u03b5" in outcome.stdout


# Terminals


def on_a_terminal(*words: str, columns: int, **changes: str) -> str:
    """What a command line writes to a terminal that is ``columns`` wide; stderr goes elsewhere."""
    import termios

    ours, theirs = os.openpty()
    termios.tcsetwinsize(theirs, (24, columns))
    outcome = bnfold(*words, stdout=theirs, env=environment(**changes))
    assert outcome.returncode == 0
    os.close(theirs)
    with os.fdopen(ours, "rb", buffering=0) as terminal:
        return terminal.read(100_000).decode("utf-8").replace("\r\n", "\n")


@pytest.mark.parametrize("columns", [60, 80, 120])
def test_a_terminal_gets_a_page_of_its_width_in_colours(columns: int) -> None:
    drawn = on_a_terminal("inspect", "m.onnx", columns=columns)
    assert drawn == to_text(sample.INSPECTION, Page(width=columns, colours=True))


@pytest.mark.parametrize("change", [{"NO_COLOR": "1"}, {"TERM": "dumb"}], ids=str)
def test_a_terminal_gets_no_control_codes_where_they_are_not_wanted(change: dict[str, str]) -> None:
    drawn = on_a_terminal("inspect", "m.onnx", columns=70, **change)
    assert drawn == to_text(sample.INSPECTION, Page(width=70))
    assert drawn.replace("\n", "").isprintable()


@pytest.mark.parametrize("change", [{}, {"COLUMNS": "40"}, {"FORCE_COLOR": "1"}], ids=str)
def test_a_file_gets_everything_and_no_control_codes(tmp_path: Path, change: dict[str, str]) -> None:
    with (tmp_path / "out.txt").open("w") as stream:
        bnfold("inspect", "m.onnx", stdout=stream, env=environment(**change))
    assert (tmp_path / "out.txt").read_text(encoding="utf-8") == TEXT


# Entry points


def test_python_m_bnfold_is_bnfold() -> None:
    command = [sys.executable, "-m", "bnfold", "--version"]
    outcome = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603 - our own interpreter
    assert outcome.stdout == f"bnfold {__version__}\n"


@pytest.mark.parametrize(
    ("words", "word", "completed"),
    [
        pytest.param("bnfold ins", "1", "inspect", id="a command"),
        pytest.param("bnfold inspect --forma", "2", "--format", id="an option"),
        pytest.param("bnfold inspect --format js", "3", "json", id="a value"),
    ],
)
def test_shells_complete(words: str, word: str, completed: str) -> None:
    outcome = bnfold(env=environment(_BNFOLD_COMPLETE="bash_complete", COMP_WORDS=words, COMP_CWORD=word))
    assert outcome.stdout == f"plain,{completed}\n"


def test_the_whole_way_on_real_models(tmp_path: Path) -> None:
    source = Path(__file__).parent.parent.parent / "sample_models" / "smallcnn.onnx"
    output = tmp_path / "smallcnn.folded.onnx"

    def real(*words: str) -> dict[str, Any]:
        command = [sys.executable, "-m", "bnfold", *words, "--format", "json"]
        outcome = subprocess.run(command, stdout=subprocess.PIPE, check=True)  # noqa: S603 - our own interpreter
        return dict(json.loads(outcome.stdout))

    inspected = real("inspect", str(source))
    converted = real("convert", str(source), "-o", str(output), "--verify", "--require-fold")
    assert converted["batch_norms"] == inspected["batch_norms"]
    assert converted["output"]["bytes"] == output.stat().st_size
    assert real("convert", str(source), "-o", str(output), "--check")["output"] is None
    assert real("verify", str(source), str(output), "--samples", "8")["passed"] is True
    timed = real("bench", str(source), str(output), "--batch", "1", "--runtime", "ort-off", "--min-seconds", "0.01")
    assert [case["batch"] for case in timed["cases"]] == [1]
