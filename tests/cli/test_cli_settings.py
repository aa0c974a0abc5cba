"""``[tool.bnfold]`` of pyproject.toml: what is refused, and what reaches the commands."""

from __future__ import annotations

from pathlib import Path

import pytest
import sample_reports as sample
from cli_fixtures import Api, CommandLine

from bnfold.render.markdown import to_markdown


def settings(text: str, folder: str = ".") -> None:
    Path(folder, "pyproject.toml").write_text(text, encoding="utf-8")


# Refusals

REFUSED = {
    "an unknown key": ("max-flip = 1", "[tool.bnfold] has the unknown key 'max-flip'", "did you mean 'max-flips'?"),
    "an unknown table": ("[tool.bnfold.verfiy]", "the unknown key 'verfiy'", "did you mean 'verify'?"),
    "a key of another command": (
        "[tool.bnfold.verify]\nrequire-fold = 'all'",
        "[tool.bnfold.verify] has the unknown key 'require-fold'",
        "`bnfold COMMAND --help` lists the options",
    ),
    "trust": ("trust-code = true", "'trust-code' can be said on the command line only", "remove it"),
    "replacing files": (
        "[tool.bnfold.convert]\nforce = true",
        "'force' can be said on the command line only",
        "remove",
    ),
    "a command that is no table": ("verify = 1", "'verify' is a command, and takes a table", "[tool.bnfold.verify]"),
    "a switch with a text": ("freeze = 'yes'", "'freeze' is 'yes', but is a switch", "write true or false"),
    "a text that is a switch": ("only = true", "'only' is True, which is no text", "as on the command line"),
    "an unknown key of calibrate": ("[tool.bnfold.calibrate]\nsample = 1", "unknown key 'sample'", "mean 'samples'?"),
    "no TOML": ("only = [", "pyproject.toml cannot be read", "correct it"),
    "a value that the option refuses": (
        "[tool.bnfold.inspect]\ninput = '1,3'",
        "Invalid value for '--input': '1,3': expected a shape",
        "correct [tool.bnfold]",
    ),
}


@pytest.mark.parametrize(("text", "what", "remedy"), REFUSED.values(), ids=REFUSED)
def test_refused(api: Api, bnfold: CommandLine, text: str, what: str, remedy: str) -> None:
    settings(f"[tool.bnfold]\n{text}")
    outcome = bnfold("inspect", "m.onnx")
    lines = outcome.err.splitlines()
    assert (outcome.code, len(lines)) == (2, 3)
    assert what in lines[0]
    assert lines[1].endswith("pyproject.toml")
    assert remedy in lines[2]
    assert api.calls == []


def test_a_wrong_value_on_the_command_line_is_not_blamed_on_the_file(bnfold: CommandLine) -> None:
    settings("[tool.bnfold]\ninput = '1x3'")
    assert "pyproject" not in bnfold("inspect", "m.onnx", "--input", "1,3").err


# What reaches the commands


def test_settings_are_options(api: Api, bnfold: CommandLine) -> None:
    settings(
        "[tool.bnfold]\nskip = ['head.*', 'tail']\nmodel = 'a.b:c'\nfreeze = true\nformat = 'markdown'\n"
        "[tool.bnfold.verify]\nmax-flips = 3\nrtol = 'logits:1e-3'\n"
        "[tool.bnfold.convert]\nverify = true\nrequire-fold = 'all'\n"
        "[tool.bnfold.bench]\nbatch = [1, 8]\nmin-seconds = 0.5\nruntime = 'ort'"
    )
    assert bnfold("inspect", "m.onnx").out == to_markdown(sample.INSPECTION)
    for words in ("convert m.onnx", "verify a b --data mnist", "bench a b"):
        assert bnfold(*words.split()).code == 0
    inspect, convert, verify, bench = (keywords for _, _, keywords in api.calls)
    assert (inspect["skip"], inspect["factory"], inspect["freeze"]) == (("head.*", "tail"), "a.b:c", True)
    assert (convert["verify"], convert["require_fold"], convert["skip"]) == ("random", "all", ("head.*", "tail"))
    assert (verify["max_flips"], verify["rtol"], verify["factory"]) == (3, {"logits": 1e-3}, "a.b:c")
    assert (bench["batch"], bench["min_seconds"], bench["runtime"]) == ((1, 8), 0.5, ("ort",))


def test_the_table_of_a_command_goes_before_the_common_one_and_the_command_line_before_both(
    api: Api, bnfold: CommandLine
) -> None:
    settings("[tool.bnfold]\nskip = 'a'\n[tool.bnfold.inspect]\nskip = 'b'")
    for words in (["convert", "m"], ["inspect", "m"], ["inspect", "m", "--skip", "c"]):
        bnfold(*words)
    assert [keywords["skip"] for _, _, keywords in api.calls] == [("a",), ("b",), ("c",)]


def test_the_nearest_file_with_settings_is_taken(
    api: Api, bnfold: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("a/b/c").mkdir(parents=True)
    settings("[tool.bnfold]\nskip = 'root'")
    settings("[tool.bnfold]\nskip = 'a'", "a")
    settings("[project]\nname = 'bnfold-user'", "a/b")
    monkeypatch.chdir("a/b/c")
    bnfold("inspect", "m.onnx")
    assert api.options["skip"] == ("a",)


@pytest.mark.parametrize("words", ["explain", "data where", "--version"])
def test_commands_without_settings_do_not_read_the_file(bnfold: CommandLine, words: str) -> None:
    settings("[tool.bnfold")
    assert bnfold(*words.split()).code == 0
