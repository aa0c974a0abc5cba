"""Errors as people read them: at most three lines (what, where, how to fix it), the traceback only on demand."""

from __future__ import annotations

import click

from bnfold import __version__
from bnfold.cli.streams import put_error
from bnfold.errors import BnfoldError, InternalError, LimitError
from bnfold.files.names import printable


class Debugging:
    """Whether ``--debug`` was given; the option sets it while the command line is parsed."""

    def __init__(self) -> None:
        self.wanted = False


def say(error: BaseException, debugging: Debugging, about: str = "") -> int:
    """Print an error, ours or a bug of ours; its exit code. ``about`` is named where the error does not name it."""
    told = _out_of_memory(error) if isinstance(error, MemoryError) else error
    if isinstance(told, BnfoldError):
        lines, exit_code = [told.what, told.where, told.remedy], told.exit_code
    else:
        lines, exit_code = _bug_report(error, debugging), InternalError.exit_code
    if about and about not in "".join(lines):
        lines[0] = f"{about}: {lines[0]}"
    _say(*lines)
    if debugging.wanted:
        import traceback

        put_error("".join(traceback.format_exception(error)))
    return exit_code


def say_usage(error: click.ClickException) -> None:
    """Print what click found wrong, with the command's usage and how to see more."""
    context = error.ctx if isinstance(error, click.UsageError) else None
    if context is None or isinstance(error, click.exceptions.NoArgsIsHelpError):
        error.show()  # the help that was not asked for is longer than any error
        return
    what = " ".join(error.format_message().split())  # click breaks the lines of some
    _say(what, context.get_usage(), f"{context.command_path} --help lists the options")


def _out_of_memory(error: MemoryError) -> LimitError:
    what = f"there is not enough memory: {error}" if str(error) else "there is not enough memory"
    return LimitError(what, remedy="use smaller inputs (--batch, --samples, --input), or a machine with more")


def _bug_report(error: BaseException, debugging: Debugging) -> list[str]:
    kind = type(error).__name__
    return [
        f"unexpected {kind}: {error}" if str(error) else f"unexpected {kind}",
        f"this is a bug in bnfold {__version__}: please report it, with the command and the model if you can",
        "" if debugging.wanted else "--debug shows where it happened",
    ]


def _say(what: str, *more: str) -> None:
    lines = [f"error: {printable(what)}", *(f"  {printable(line)}" for line in more if line)]
    put_error("".join(f"{line}\n" for line in lines))
