"""stdout carries the result and nothing else, whoever prints: Python code, the user's, or a native library."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Iterator
from typing import TextIO

import click

from bnfold.errors import OutputError


def take_over_stdout() -> None:
    """Keep the real stdout for the result; file descriptor 1 leads to stderr until the process ends.

    Native libraries print to the descriptor, some as late as in their destructors, so it is not given back. Streams
    that were closed by the caller become the null device first: otherwise the next file opened would be taken for one.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest descriptor that is free, which is this one
    sys.stderr = sys.stderr or _stream_on(os.dup(2), "utf-8")  # Python has None for a stream that was closed
    result = os.dup(1)
    os.dup2(2, 1)
    encoding = sys.stdout.encoding if sys.stdout else "utf-8"
    sys.stdout = _ResultStream(io.BufferedWriter(io.FileIO(result, "wb")), encoding=encoding, errors="backslashreplace")


class _ResultStream(io.TextIOWrapper):
    """stdout, to which click's ``--help`` writes too: a reader who has gone (``… | head``) is no error."""

    def write(self, text: str) -> int:
        """How many letters were written. Raises OutputError where the disk is full."""
        with self._told():
            super().write(text)
        return len(text)

    def flush(self) -> None:
        """Raises OutputError, as ``write`` does: which of them meets the full disk depends on the text's length."""
        with self._told():
            super().flush()

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except BrokenPipeError:
            _silence(self)
        except OSError as error:
            _silence(self)
            raise OutputError(f"cannot write the result to stdout: {error.strerror or error}") from error


def _stream_on(descriptor: int, encoding: str) -> TextIO:
    """A text stream for the rest of the process; a name that its encoding cannot express is escaped."""
    return open(descriptor, "w", encoding=encoding, errors="backslashreplace")


@contextlib.contextmanager
def prints_go_to_stderr() -> Iterator[None]:
    """While work runs, what Python code prints is not part of the result."""
    with contextlib.redirect_stdout(sys.stderr):
        yield


def put_result(text: str) -> None:
    """Write to stdout. A reader who has gone is no error; a full disk is an OutputError."""
    click.echo(text, nl=False)


def put_error(text: str) -> None:
    """Write to stderr; where nobody reads it, there is nobody left to tell."""
    try:
        click.echo(text, nl=False, err=True)
    except OSError:
        _silence(sys.stderr)


def _silence(stream: TextIO) -> None:
    """Send the stream, and what is still in its buffer, nowhere: Python flushes it once more at the end."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)
