from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from cli_fixtures import CommandLine

import bnfold.data.fetch
from bnfold.data.fetch import Fetched
from bnfold.data.mnist import FILES
from bnfold.errors import DataError


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


def test_places_as_markdown(bnfold: CommandLine) -> None:
    assert bnfold("data", "where", "--format", "markdown").out.startswith("| place | MNIST | what is there |\n| --- |")


# fetch; what it downloads, and from where, is tested in tests/data/test_fetch.py

PLACE = "https://example.org/mnist/t10k-images-idx3-ubyte.gz"


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Any]:
    """What ``fetch_mnist`` is called with; it gives a file that was there and one that came from the second place."""
    calls: dict[str, Any] = {}

    def fetch(directory: Path | None, **callbacks: Any) -> tuple[Fetched, ...]:
        calls["directory"] = directory
        callbacks["waiting"]()
        folder = directory or tmp_path / "cache" / "bnfold" / "mnist"
        failures = ("https://example.com/x: HTTP 404",)
        return (
            Fetched(folder / "t10k-labels-idx1-ubyte.gz", 4542, "", ()),
            Fetched(folder / "t10k-images-idx3-ubyte.gz", 1_648_877, PLACE, failures),
        )

    monkeypatch.setattr(bnfold.data.fetch, "fetch_mnist", fetch)
    return calls


@pytest.mark.parametrize("words", ["data fetch", "data fetch cifar", "data fetch mnist --split test"])
def test_what_cannot_be_fetched_is_exit_code_2(bnfold: CommandLine, fetched: dict[str, Any], words: str) -> None:
    assert bnfold(*words.split()).code == 2
    assert fetched == {}


def test_a_failed_download_is_exit_code_7_and_three_lines(bnfold: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise DataError("it could not be downloaded", where="two places", remedy="copy it")

    monkeypatch.setattr("bnfold.data.fetch.fetch_mnist", fail)
    outcome = bnfold("data", "fetch", "mnist")
    assert (outcome.code, outcome.out) == (7, "")
    assert outcome.err == "error: it could not be downloaded\n  two places\n  copy it\n"


def test_each_file_is_listed_with_where_it_came_from(bnfold: CommandLine, fetched: dict[str, Any]) -> None:
    outcome = bnfold("data", "fetch", "mnist")
    assert outcome.code == 0
    assert fetched["directory"] is None
    lines = outcome.out.splitlines()
    assert lines[1].split() == ["t10k-labels-idx1-ubyte.gz", "4.5", "kB", "here"]
    assert lines[2].split() == ["t10k-images-idx3-ubyte.gz", "1.6", "MB", PLACE]
    assert lines[-1].startswith("MNIST is in ")
    assert outcome.err.splitlines() == [
        "another process is fetching mnist: waiting for it",
        "warning: https://example.com/x: HTTP 404",
    ]


@pytest.mark.usefixtures("fetched")
def test_a_folder_that_is_not_looked_in_is_said_to_need_naming(bnfold: CommandLine, tmp_path: Path) -> None:
    out = bnfold("data", "fetch", "mnist", "--dir", str(tmp_path / "elsewhere")).out
    assert "set BNFOLD_MNIST to it" in out.splitlines()[-1]
    assert "BNFOLD_MNIST" not in bnfold("data", "fetch", "mnist", "--dir", str(tmp_path / "data")).out


@pytest.mark.usefixtures("fetched")
def test_fetched_files_as_json_and_quietly(bnfold: CommandLine) -> None:
    outcome = bnfold("data", "fetch", "mnist", "--format", "json", "--quiet")
    assert outcome.err == ""
    assert [(item["bytes"], item["url"]) for item in json.loads(outcome.out)] == [(4542, None), (1_648_877, PLACE)]
