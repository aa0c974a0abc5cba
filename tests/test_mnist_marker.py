from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

CONFTEST = Path(__file__).with_name("conftest.py")
MARKED = "import pytest\n\n@pytest.mark.mnist\ndef test_on_mnist():\n    pass\n"


@pytest.mark.parametrize(
    ("environment", "summary"),
    [
        pytest.param({}, "1 skipped", id="skipped without the data"),
        pytest.param({"CI": "true"}, "1 error", id="failed in CI without the data"),
        pytest.param({"BNFOLD_MNIST": "/data/mnist"}, "1 passed", id="run with the data"),
        pytest.param({"BNFOLD_MNIST": "/data/mnist", "CI": "true"}, "1 passed", id="run in CI with the data"),
    ],
)
def test_a_test_on_mnist_is(tmp_path: Path, environment: dict[str, str], summary: str) -> None:
    (tmp_path / "conftest.py").write_text(CONFTEST.read_text(encoding="utf-8"), encoding="utf-8")
    (tmp_path / "test_marked.py").write_text(MARKED, encoding="utf-8")
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers =\n    mnist: needs MNIST\n", encoding="utf-8")
    inherited = {name: value for name, value in os.environ.items() if name not in {"CI", "BNFOLD_MNIST"}}
    inherited["PYTHONPATH"] = str(CONFTEST.parent)  # where the plugins of the copy are
    finished = subprocess.run(  # noqa: S603 - our own interpreter
        [sys.executable, "-m", "pytest", "-rs", "-p", "no:cacheprovider", str(tmp_path)],
        env=inherited | environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert summary in finished.stdout
    assert finished.returncode == (1 if "error" in summary else 0)
    assert ("set BNFOLD_MNIST" in finished.stdout) == ("skipped" in summary)
