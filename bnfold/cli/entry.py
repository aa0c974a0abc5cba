"""From a command line to an exit code: every way a run can end is decided here.

The codes are fixed (see ``bnfold.errors``); 130, 143 and 129 are what shells report for SIGINT, SIGTERM and SIGHUP.
"""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from types import FrameType
from typing import Final, NoReturn

import click

from bnfold.cli import INTERRUPTED, leave_at_once
from bnfold.cli.commands import bnfold
from bnfold.cli.failures import Debugging, say, say_usage
from bnfold.cli.streams import put_error, take_over_stdout

TERMINATED: Final = 143
HUNG_UP: Final = 129

_GARBAGE_THRESHOLD: Final = 20_000
"""Python's 700 has the imports searched for garbage, of which they make none, for 20 ms of a small model's 450."""


def main() -> NoReturn:
    """Run the command line of this process, and end the process."""
    take_over_stdout()
    signal.signal(signal.SIGTERM, _terminate)
    if os.name != "nt" and signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:  # nohup ignores it
        signal.signal(signal.SIGHUP, _terminate)
    gc.set_threshold(_GARBAGE_THRESHOLD)
    with _interrupts_raised():
        exit_code = run(sys.argv[1:])
    if exit_code == INTERRUPTED:
        os._exit(exit_code)  # waiting for no thread; Python may end by the signal instead, whatever code it is given
    gc.freeze()  # or the end of the process would search all there is for garbage, 50 ms of a small model's 450
    sys.exit(exit_code)


def run(arguments: Sequence[str]) -> int:
    """Run one command line; its exit code. Errors have been printed; only SystemExit (SIGTERM) leaves it."""
    debugging = Debugging()
    try:
        result = bnfold.main(list(arguments), prog_name="bnfold", obj=debugging, standalone_mode=False)
    except click.ClickException as error:
        say_usage(error)
        return error.exit_code
    except (click.Abort, KeyboardInterrupt) as end:  # click's word for both that and EOFError, which readers raise
        if isinstance(end.__cause__, EOFError):
            return say(end.__cause__, debugging)
        put_error("interrupted\n")
        return INTERRUPTED
    except Exception as error:  # noqa: BLE001 - the last resort: a bug of ours is told like any error
        return say(error, debugging)
    return result if isinstance(result, int) else 0


@contextlib.contextmanager
def _interrupts_raised() -> Iterator[None]:
    """SIGINT raises KeyboardInterrupt inside, as Python has it, so that temporary files are removed."""
    is_ours = signal.getsignal(signal.SIGINT) is leave_at_once
    if is_ours:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        if is_ours:
            signal.signal(signal.SIGINT, leave_at_once)


def _terminate(number: int, _frame: FrameType | None) -> NoReturn:
    """Leave by an exception, so that temporary files are removed; a second signal does not disturb that."""
    signal.signal(number, signal.SIG_IGN)
    raise SystemExit(TERMINATED if number == signal.SIGTERM else HUNG_UP)
