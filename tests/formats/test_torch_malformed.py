"""Damaged and hostile checkpoints: the documented exit code, three lines, nothing written, and no code run.

All are opened in one process of their own, whose audit hook sees everything that Python is asked to do.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hostile_files import HOSTILE, MARK

HELP = {
    "a call of os.system": "posix.system",
    "the options of a script": "argparse.Namespace",
    "a pickled module": "checkpoint_files.Net",
    "an exported program": "--trust-code",
    "a bomb": "would unpack to",
    "a flipped bit in a tensor": "checksum",
    "a flipped bit in the pickle": "checksum",
    "a record that is too short": "the record data/0 has 8 bytes, and the tensor in it needs ",
    "a record that is too long": "the record data/0 has ",
    "a record in two lengths": "the record data/0 has 4 bytes",
    "a record called by a number": "as torch does not",
    "other shapes": "other shapes: conv.weight",
    "a tensor that is missing": "missing: conv.weight",
    "tensors too many": "unexpected: more.0, more.1, more.2, more.3, more.4 and 4 more",
    "a weight without data": "without data",
    "a sparse weight": "sparse",
    "a quantised weight": "stored quantised: conv.weight",
    "a weight of integers": "int8",
    "TorchScript": "TorchScript",
}
"""What the message must say of some of them."""


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("hostile") / "files"
    folder.mkdir()
    for name, (_, write) in HOSTILE.items():
        write(folder / name)
    before = sorted(folder.iterdir())
    command = [sys.executable, str(Path(__file__).with_name("hostile_files.py")), str(folder)]
    environment = {"PYTHONPATH": ":".join(path for path in sys.path if path)}
    ended = subprocess.run(command, cwd=folder.parent, env=environment, check=False, capture_output=True, text=True)  # noqa: S603 - our script
    assert ended.returncode == 0, ended.stderr
    found: dict[str, Any] = json.loads(ended.stdout)
    found["left behind"] = sorted(path.name for path in folder.iterdir() if path not in before)
    found["code ran"] = (folder.parent / MARK).exists() or (folder / MARK).exists()
    return found


@pytest.mark.parametrize("name", HOSTILE)
def test_is_refused(outcomes: dict[str, Any], name: str) -> None:
    outcome, (code, _) = outcomes[name], HOSTILE[name]
    assert (outcome["code"], outcome["out"]) == (code, ""), outcome
    assert 1 <= len(outcome["err"].splitlines()) <= 3, outcome["err"]
    assert outcome["seen"] == []
    assert HELP.get(name, "") in outcome["err"]


def test_nothing_was_written_and_no_code_ran(outcomes: dict[str, Any]) -> None:
    assert outcomes["left behind"] == []
    assert not outcomes["code ran"]


def test_the_same_process_converts_a_good_file(outcomes: dict[str, Any]) -> None:
    assert outcomes["good.pt"]["code"] == 0
