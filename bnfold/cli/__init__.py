"""The command line: click, one file a command, and nothing heavier than click before a command runs."""

from __future__ import annotations

import os
import signal

TYPE_CHECKING = False  # typing's own takes 5 ms, in which an interrupt would find nobody
if TYPE_CHECKING:
    from types import FrameType
    from typing import Final, NoReturn

INTERRUPTED: Final = 130
"""What shells report for SIGINT."""


def main() -> NoReturn:
    """Run the command line of this process, and end the process."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # a job in the background ignores it
        signal.signal(signal.SIGINT, leave_at_once)
    from bnfold.cli.entry import main as enter

    enter()


def leave_at_once(_number: int, _frame: FrameType | None) -> NoReturn:
    """An interrupt while nothing is begun yet, or all is done: importing click takes longer than Ctrl-C."""
    os.write(2, b"interrupted\n")
    os._exit(INTERRUPTED)
