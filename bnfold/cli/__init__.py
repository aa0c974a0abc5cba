"""The command line: click, one file a command, and nothing heavier than click before a command runs."""

from bnfold.cli.entry import main

__all__ = ["main"]
