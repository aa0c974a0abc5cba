"""Tests marked ``mnist`` need the data set: without it they skip where people can see it, and fail in CI."""

from __future__ import annotations

import os

import pytest

pytest_plugins = ["cli_fixtures"]

VARIABLE = "BNFOLD_MNIST"


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("mnist") is None or os.environ.get(VARIABLE):
        return
    if os.environ.get("CI", "").lower() == "true":
        pytest.fail(f"{VARIABLE} is not set, and CI runs every test", pytrace=False)
    pytest.skip(f"set {VARIABLE} to the directory with MNIST's files")
