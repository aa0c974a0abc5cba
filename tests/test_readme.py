"""The README's sessions are what the commands print, and its Python runs. Numbers are masked: machines differ."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from sample_models import NETWORKS
from sample_models.files import prepare, write

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SESSIONS = re.findall(r"```console\n(.*?)```", README, re.DOTALL)
PYTHON = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def commands(session: str) -> list[tuple[str, str]]:
    """Each command of a session, and what it printed."""
    parts = re.split(r"^\$ (.*)\n", session, flags=re.MULTILINE)[1:]
    return list(zip(parts[::2], parts[1::2], strict=True))


def masked(text: str) -> str:
    """The text with every number as ``#``, and runs of blanks as one."""
    numberless = re.sub(r"\d[\d.,e+-]*", "#", text)
    return re.sub(r"[ ─-]+", " ", numberless).strip()


def run(command: str, folder: Path) -> str:
    words = shlex.split(command)
    assert words[0] == "bnfold"
    done = subprocess.run(  # noqa: S603 - commands of our own page
        [sys.executable, "-m", *words], cwd=folder, capture_output=True, text=True, check=False, encoding="utf-8"
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.mnist
@pytest.mark.parametrize("session", SESSIONS[:2], ids=["onnx", "checkpoint"])
def test_a_session_is_what_the_commands_print(session: str, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "sample_models", tmp_path / "sample_models")
    for command, printed in commands(session):
        assert masked(run(command, tmp_path)) == masked(printed), command


@pytest.mark.mnist
def test_the_session_of_tinycnn_is_what_the_commands_print_for_it_untrained(tmp_path: Path) -> None:
    tinycnn = next(network for network in NETWORKS if network.name == "tinycnn")
    torch.manual_seed(0)
    module = tinycnn.build()
    module.get_buffer("mean").fill_(0.13)
    module(torch.rand(8, 1, 28, 28))  # in training mode, which gives the batch norms statistics
    prepare(tinycnn, tmp_path / "out")
    write(tinycnn, module.eval(), tmp_path / "out")

    convert, verify = commands(SESSIONS[2])
    for (command, printed), fewer in ((convert, ""), (verify, " --samples 500")):
        assert masked(run(command + fewer, tmp_path)) == masked(printed), command


def test_the_sessions_are_found() -> None:
    assert [len(commands(session)) for session in SESSIONS] == [3, 1, 2]


def test_the_python_runs(capsys: pytest.CaptureFixture[str]) -> None:
    (source,) = PYTHON
    exec(compile(source, "README.md", "exec"), {})  # noqa: S102 - our own page
    assert "Identity" in capsys.readouterr().out


@pytest.mark.parametrize("page", re.findall(r"\]\(([\w./-]+\.md)\)", README))
def test_linked_pages_exist(page: str) -> None:
    assert (ROOT / page).is_file()
