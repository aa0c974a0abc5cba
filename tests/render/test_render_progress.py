from __future__ import annotations

import io
import subprocess
import sys

import pytest

from bnfold.render.progress import progress_shown


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    monkeypatch.setenv("TERM", "xterm")
    return Terminal()


def test_nothing_is_drawn_within_the_first_second(terminal: Terminal, clock: Clock) -> None:
    with progress_shown(stream=terminal, clock=clock) as progress:
        for done in range(10):
            clock.now += 0.09
            progress("verifying", done, 10)
    assert terminal.getvalue() == ""


def test_nothing_is_drawn_where_quiet_is_wanted(terminal: Terminal, clock: Clock) -> None:
    with progress_shown(quiet=True, stream=terminal, clock=clock) as progress:
        clock.now += 5
        progress("verifying", 1, 10)
    assert terminal.getvalue() == ""


def test_nothing_is_drawn_into_a_file(clock: Clock) -> None:
    stream = io.StringIO()
    with progress_shown(stream=stream, clock=clock) as progress:
        clock.now += 5
        progress("verifying", 1, 10)
    assert stream.getvalue() == ""


def test_nothing_is_drawn_on_a_dumb_terminal(terminal: Terminal, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    with progress_shown(stream=terminal, clock=clock) as progress:
        clock.now += 5
        progress("verifying", 1, 10)
    assert terminal.getvalue() == ""


def test_after_a_second_a_bar_is_drawn_and_gone_at_the_end(terminal: Terminal, clock: Clock) -> None:
    with progress_shown(stream=terminal, clock=clock) as progress:
        clock.now += 1.5
        progress("verifying [bold]x\x1b[2J", 3, 10)
        drawn = terminal.getvalue()
    assert r"verifying [bold]x\x1b[2J" in drawn
    assert "3/10" in drawn
    erase_line = "\x1b[2K"
    assert terminal.getvalue().endswith(erase_line)


def test_a_bar_that_stands_is_filled_by_the_last_step_however_soon_it_comes(terminal: Terminal, clock: Clock) -> None:
    with progress_shown(stream=terminal, clock=clock) as progress:
        clock.now += 1.5
        progress("verifying", 9, 10)
        progress("verifying", 10, 10)
        assert "10/10" in terminal.getvalue()


def test_a_bar_is_taken_away_when_the_work_fails(terminal: Terminal, clock: Clock) -> None:
    def work() -> None:
        with progress_shown(stream=terminal, clock=clock) as progress:
            clock.now += 1.5
            progress("verifying", 3, 10)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        work()
    show_cursor = "\x1b[?25h"
    assert show_cursor in terminal.getvalue()


def test_rich_is_not_imported_while_nothing_is_drawn() -> None:
    code = """
import sys
from bnfold.render.progress import progress_shown
with progress_shown() as progress:
    progress("verifying", 1, 10)
sys.exit("rich" in sys.modules)
"""
    command = [sys.executable, "-c", code]
    assert subprocess.run(command, check=False).returncode == 0  # noqa: S603 - our own interpreter
