"""What starts fast stays light: imports are looked at in a fresh interpreter, times are not."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

COMMANDS = ["demo", "inspect", "convert", "verify", "bench", "calibrate", "explain", "data where", "data fetch"]
HEAVY = {"numpy", "torch", "onnx", "onnxruntime", "rich", "pooch", "safetensors", "ml_dtypes", "google"}
REPORT_MODULES = "; import json, sys; sys.stdout.write(json.dumps(sorted(sys.modules)))"


def modules_after(code: str) -> set[str]:
    """The top-level packages and bnfold's modules that a fresh interpreter has imported after ``code``."""
    command = [sys.executable, "-c", code + REPORT_MODULES]
    finished = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603 - our own interpreter
    names = json.loads(finished.stdout[finished.stdout.rindex("[") :])
    return {name if name.startswith("bnfold.") else name.partition(".")[0] for name in names}


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["inspct"], []], ids=str)
def test_the_group_imports_click_and_no_command(arguments: list[str]) -> None:
    modules = modules_after(f"from bnfold.cli.entry import run; run({arguments})")
    assert modules & HEAVY == set()
    assert {name for name in modules if name.startswith("bnfold.")} == {
        "bnfold.cli",
        "bnfold.cli.commands",
        "bnfold.cli.entry",
        "bnfold.cli.failures",
        "bnfold.cli.streams",
        "bnfold.errors",
        "bnfold.files",
        "bnfold.files.names",
    }


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_of_a_command_imports_nothing_heavy(command: str) -> None:
    assert modules_after(f"from bnfold.cli.entry import run; run({[*command.split(), '--help']})") & HEAVY == set()


def test_explain_into_a_pipe_needs_nothing_heavy() -> None:
    modules = modules_after("from bnfold.cli.entry import run; run(['explain', 'fan-out'])")
    assert modules & HEAVY == set()


def test_import_bnfold_imports_neither_click_nor_anything_heavy() -> None:
    modules = modules_after("import bnfold; bnfold.__version__")
    assert modules & (HEAVY | {"click"}) == set()
    assert {name for name in modules if name.startswith("bnfold.")} == set()
    assert "typing" not in modules
