"""How a benchmark is called: ``--help`` prints what it measures, and what it does not know it refuses."""

from __future__ import annotations

from argparse import ArgumentParser, ArgumentTypeError, RawDescriptionHelpFormatter


def parser(described: str | None) -> ArgumentParser:
    """A parser of arguments that knows none but ``--help``, which prints the docstring of the program's module."""
    return ArgumentParser(description=described, formatter_class=RawDescriptionHelpFormatter, allow_abbrev=False)


def count(text: str) -> int:
    """A number of runs: one at least."""
    if not text.isdecimal() or not int(text):
        raise ArgumentTypeError(f"{text!r} is no number of runs")
    return int(text)
