from __future__ import annotations

import os
import subprocess
import sys

import pytest

from bnfold.cli.blas import one_blas_thread

COUNT_THREADS = "import os; print(len(os.listdir('/proc/self/task')))"


def test_the_limit_ends_with_the_import(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENBLAS_NUM_THREADS", raising=False)
    with one_blas_thread():
        assert os.environ["OPENBLAS_NUM_THREADS"] == "1"
    assert "OPENBLAS_NUM_THREADS" not in os.environ


def test_the_number_that_the_user_has_chosen_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "3")
    with one_blas_thread():
        assert os.environ["OPENBLAS_NUM_THREADS"] == "3"
    assert os.environ["OPENBLAS_NUM_THREADS"] == "3"


@pytest.mark.skipif(sys.platform != "linux", reason="Linux lists the threads of a process as files")
def test_numpy_starts_no_threads() -> None:
    code = f"from bnfold.cli.blas import one_blas_thread\nwith one_blas_thread():\n import numpy\n{COUNT_THREADS}"
    unlimited = {name: value for name, value in os.environ.items() if not name.endswith("_NUM_THREADS")}
    command = [sys.executable, "-c", code]
    assert subprocess.check_output(command, env=unlimited, text=True).strip() == "1"  # noqa: S603 - our own code
