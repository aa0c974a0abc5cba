from __future__ import annotations

import platform
import sys
from importlib.metadata import version
from typing import TYPE_CHECKING

import pytest

from bnfold.check.environment import _processor, environment

if TYPE_CHECKING:
    from pathlib import Path


def test_a_package_that_is_not_installed_is_left_out() -> None:
    assert environment(["numpy", "no-such-package-anywhere"]).packages == {"numpy": version("numpy")}


def test_no_package_is_imported_for_its_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "pooch", raising=False)
    assert environment(["pooch"]).packages
    assert "pooch" not in sys.modules


@pytest.mark.parametrize(
    ("text", "name"),
    [
        pytest.param("processor\t: 0\nmodel name\t: Fast One\nflags\t: fpu\n", "Fast One", id="x86"),
        pytest.param("processor\t: 0\nBogoMIPS\t: 100.00\n", "the machine's own", id="arm"),
        pytest.param(None, "the machine's own", id="no Linux"),
    ],
)
def test_the_processor_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str | None, name: str) -> None:
    monkeypatch.setattr(platform, "processor", lambda: "the machine's own")
    description = tmp_path / "cpuinfo"
    if text is not None:
        description.write_text(text)
    assert _processor(description) == name


def test_this_machine_is_described() -> None:
    found = environment(["numpy"], threads=3)
    assert found.threads == 3
    assert found.cpu_count >= 1
    assert found.processor
    assert found.python == ".".join(map(str, sys.version_info[:3]))
