from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from sample_models import NETWORKS, Network
from sample_models.__main__ import main

ROWS = [pytest.param(network, id=network.name) for network in NETWORKS]
PYTHON_FILES = {path.stem for path in (Path(__file__).parents[2] / "sample_models").glob("*.py")}


def test_registry_and_list_import_without_torch() -> None:
    code = "import sys; sys.modules['torch'] = None; from sample_models.__main__ import main; main(['list'])"

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)  # noqa: S603 - ours

    assert re.findall(r"^\w+$", done.stdout, re.MULTILINE) == [network.name for network in NETWORKS]


def test_list_fits_a_narrow_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("COLUMNS", "50")

    main(["list"])

    assert max(map(len, capsys.readouterr().out.splitlines())) <= 50


def test_names_are_unique() -> None:
    assert len({network.name for network in NETWORKS}) == len(NETWORKS)


@pytest.mark.parametrize("network", ROWS)
def test_row_agrees_with_the_networks_file(network: Network) -> None:
    file = network.file()

    assert network.name in PYTHON_FILES
    assert network.factory == f"sample_models.{network.name}:{network.name}"
    assert callable(file.train)
    assert hasattr(file, "reproduce") is network.published
    assert network.onnx().is_file() is network.weights().is_file() is network.shipped
