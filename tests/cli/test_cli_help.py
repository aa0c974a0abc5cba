"""Help texts: what every user sees first."""

from __future__ import annotations

import re
import shlex

import pytest
from cli_fixtures import CommandLine

from bnfold import __version__
from bnfold.cli.commands import COMMANDS

PAGES = {"": [], **{name: name.split() for name in [*COMMANDS, "data where", "data fetch"]}}
LEAVES = [name for name in PAGES if name not in {"", "data"}]


@pytest.mark.parametrize("words", PAGES.values(), ids=lambda words: " ".join(words) or "bnfold")
@pytest.mark.parametrize("option", ["--help", "-h"])
def test_help_fits_a_screen(bnfold: CommandLine, words: list[str], option: str) -> None:
    outcome = bnfold(*words, option)
    assert outcome.code == 0
    assert len(outcome.out.splitlines()) <= 40
    assert max(map(len, outcome.out.splitlines())) <= 80
    assert outcome.err == ""


def test_the_group_lists_its_commands_in_the_order_of_the_work(bnfold: CommandLine) -> None:
    lines = bnfold("--help").out.splitlines()
    start = lines.index("Commands:") + 1
    listed = dict(line.split(maxsplit=1) for line in lines[start : start + len(COMMANDS)])
    assert listed == COMMANDS
    assert list(listed) == list(COMMANDS)


def test_without_a_command_the_help_is_shown_and_the_exit_code_is_2(bnfold: CommandLine) -> None:
    outcome = bnfold()
    assert outcome.code == 2
    assert outcome.out == ""
    assert outcome.err == bnfold("--help").out


@pytest.mark.parametrize("name", LEAVES)
def test_a_command_has_three_examples_of_options_that_exist(bnfold: CommandLine, name: str) -> None:
    text = bnfold(*name.split(), "--help").out
    known = set(re.findall(r"--?[a-z][a-z-]*", text.partition("Examples:")[0]))
    examples = [line.strip() for line in text.partition("Examples:")[2].splitlines() if line.strip()]
    assert len(examples) == 3
    for example in examples:
        command = example.partition(" | ")[0]
        assert f"bnfold {name}" in command
        given = {word.partition("=")[0] for word in shlex.split(command) if word.startswith("-")}
        assert given <= known


def test_version(bnfold: CommandLine) -> None:
    assert bnfold("--version").out == f"bnfold {__version__}\n"
