"""Tests marked ``mnist`` skip visibly without the data set, and fail in CI; property tests have no deadline.

PyTorch computes with one thread here, and in the processes that tests start: for networks as small as the tests' a
second one costs more than it brings, and the tests themselves run side by side.
"""

from __future__ import annotations

import os

import pytest
from hypothesis import settings

pytest_plugins = ["cli_fixtures"]

VARIABLE = "BNFOLD_MNIST"

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch is imported, which is after this

# On a shared machine an example may take any time; a law does not fail for that.
settings.register_profile("bnfold", deadline=None)
settings.load_profile("bnfold")


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("mnist") is None or os.environ.get(VARIABLE):
        return
    if os.environ.get("CI", "").lower() == "true":
        pytest.fail(f"{VARIABLE} is not set, and CI runs every test", pytrace=False)
    pytest.skip(f"set {VARIABLE} to the directory with MNIST's files")
