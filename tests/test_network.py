"""``data fetch`` is the only command that uses the network: here every use of a socket ends the process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

MODEL = Path(__file__).parent.parent / "sample_models" / "smallcnn.onnx"
CAUGHT = 99

# An audit hook sees every use of a socket in the interpreter and cannot be taken back; os._exit cannot be caught.
WITHOUT_NETWORK = f"""
import os, sys
def hook(event, arguments):
    if event.startswith("socket.") and event not in ("socket.__new__", "socket.gethostname"):
        os.write(2, f"the network was used: {{event}} {{arguments}}\\n".encode())
        os._exit({CAUGHT})
sys.addaudithook(hook)
from bnfold.cli import main
main()
"""


def without_network(*words: str, folder: Path) -> subprocess.CompletedProcess[str]:
    hidden = {"BNFOLD_MNIST"}
    environment = {name: value for name, value in os.environ.items() if name not in hidden}
    environment |= {"XDG_CACHE_HOME": str(folder / "cache"), "PYTHONPATH": str(Path(__file__).parent.parent)}
    return subprocess.run(  # noqa: S603 - our own interpreter
        [sys.executable, "-c", WITHOUT_NETWORK, *words],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_fetching_is_caught(tmp_path: Path) -> None:
    outcome = without_network("data", "fetch", "mnist", folder=tmp_path)
    assert outcome.returncode == CAUGHT
    assert "the network was used: socket." in outcome.stderr


LINES = {
    "demo": "demo",
    "inspect": f"inspect {MODEL}",
    "convert": f"convert {MODEL} -o out.onnx --verify --bench --report out.json",
    "verify": f"verify {MODEL} {MODEL} --samples 8",
    "bench": f"bench {MODEL} {MODEL} --batch 1 --min-seconds 0.01",
    "calibrate": f"calibrate {MODEL} --data none.npz -o out.onnx",
    "explain": "explain fan-out",
    "data": "data where",
    "help": "--help",
}


@pytest.mark.parametrize("line", LINES.values(), ids=LINES)
def test_no_other_command_uses_the_network(tmp_path: Path, line: str) -> None:
    outcome = without_network(*line.split(), folder=tmp_path)
    assert outcome.returncode == 0, outcome.stderr


def test_data_that_is_missing_is_not_fetched(tmp_path: Path) -> None:
    outcome = without_network("verify", str(MODEL), str(MODEL), "--data", "mnist", folder=tmp_path)
    assert outcome.returncode == 7, outcome.stderr
    assert "bnfold data fetch mnist" in outcome.stderr


def test_every_command_is_tried() -> None:
    from bnfold.cli.commands import COMMANDS

    assert set(COMMANDS) <= set(LINES)
