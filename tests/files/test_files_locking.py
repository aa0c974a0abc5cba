from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from threading import Event, Thread

import pytest

from bnfold.errors import OutputError
from bnfold.files.locking import locked

HOLDING = """
import sys
from pathlib import Path
from bnfold.files.locking import locked
with locked(Path(sys.argv[1]), lambda: None):
    print("held", flush=True)
    sys.stdin.readline()
"""


def test_a_lock_in_a_folder_that_is_not_there_is_an_output_error(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="cannot lock"), locked(tmp_path / "no" / "lock", lambda: None):
        pass


def test_an_error_inside_gives_the_lock_back(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with pytest.raises(ZeroDivisionError), locked(path, lambda: None):
        raise ZeroDivisionError
    assert not path.exists()


def test_the_file_is_there_while_the_lock_is_held_and_gone_afterwards(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with locked(path, lambda: None):
        assert path.exists()
    assert list(tmp_path.iterdir()) == []


def test_a_second_holder_is_told_once_and_waits(tmp_path: Path) -> None:
    path, told = tmp_path / "lock", Event()
    order: list[str] = []

    def waiting() -> None:
        order.append("waiting")
        told.set()

    def second() -> None:
        with locked(path, waiting):
            order.append("second")

    with locked(path, lambda: None):
        thread = Thread(target=second)
        thread.start()
        assert told.wait(60)
        order.append("first")
    thread.join()
    assert order == ["waiting", "first", "second"]
    assert list(tmp_path.iterdir()) == []


def test_many_holders_come_one_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    inside: list[int] = []
    seen: list[int] = []

    def hold() -> None:
        for _ in range(5):
            with locked(path, lambda: None):
                inside.append(1)
                seen.append(len(inside))
                inside.pop()

    threads = [Thread(target=hold) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [1] * 20
    assert list(tmp_path.iterdir()) == []


def test_a_holder_that_is_killed_leaves_no_lock(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    command = [sys.executable, "-c", HOLDING, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:  # noqa: S603
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        assert path.exists()
        process.kill()
    with locked(path, lambda: pytest.fail("nobody holds it")):
        assert path.exists()
    assert not path.exists()
