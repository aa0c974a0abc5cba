from __future__ import annotations

import json
from pathlib import Path

import pytest
from cli_fixtures import CommandLine

from bnfold.data.mnist import FILES


@pytest.fixture(autouse=True)
def no_data(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("BNFOLD_MNIST", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def digits(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder that holds files of MNIST's names; ``data where`` opens none of them."""
    folder = tmp_path / "digits\x1b[2J"
    folder.mkdir()
    for files in FILES.values():
        for file in files:
            (folder / f"{file.name}.gz").touch()
    monkeypatch.setenv("BNFOLD_MNIST", str(folder))
    return folder


def test_where_nothing_is_found_it_says_how_to_name_a_place(bnfold: CommandLine) -> None:
    outcome = bnfold("data", "where")
    assert outcome.code == 0
    assert "MNIST was not found. Set BNFOLD_MNIST" in outcome.out
    assert "no such directory" in outcome.out


@pytest.mark.usefixtures("digits")
def test_where_data_are_found_it_names_the_place(bnfold: CommandLine) -> None:
    lines = bnfold("data", "where").out.splitlines()
    assert lines[0].split() == ["place", "MNIST", "what", "is", "there"]
    assert lines[1].split()[1] == "found"
    assert lines[-1].startswith("MNIST is read from ")
    assert lines[-1].endswith(r"digits\x1b[2J")


def test_places_as_json(bnfold: CommandLine, digits: Path) -> None:
    data = json.loads(bnfold("data", "where", "--format", "json").out)
    assert data[0] == {"data": "mnist", "path": str(digits), "found": True, "what": data[0]["what"]}
    assert [place["found"] for place in data[1:]] == [False] * (len(data) - 1)
