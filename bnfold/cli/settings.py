"""``[tool.bnfold]`` of pyproject.toml: options that a project always wants, as if they stood on the command line.

A key is an option's long name. Keys of the table itself are for every command that has such an option; a table below
it, ``[tool.bnfold.verify]``, is for that command alone. What is given on the command line goes before.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final

import click

from bnfold.errors import UsageError

CONFIGURABLE: Final = ("inspect", "convert", "verify", "bench", "calibrate")
"""The commands that take settings: those that work on models."""
_COMMAND_LINE_ONLY: Final = frozenset({"trust-code", "force", "output", "out-dir", "debug", "help"})
"""What runs code, replaces or places a file, or is about one run, nobody should find decided elsewhere."""

Table = Mapping[str, Any]


class Settings:
    """The table of one pyproject.toml, checked against the options that there are."""

    def __init__(self, file: Path, table: Table, commands: Mapping[str, click.Command]) -> None:
        self.file = file
        self._commands = commands
        self._shared = {key: value for key, value in table.items() if key not in commands}
        self._own = {name: table[name] for name in commands if name in table}

    def defaults(self, name: str) -> dict[str, Any]:
        """What click takes for the defaults of a command: values by parameter. Raises UsageError."""
        found: dict[str, Any] = {}
        for key, value in self._checked():
            parameter = _options(self._commands[name]).get(key)
            if parameter is not None and parameter.name is not None:
                found[parameter.name] = self._value(key, value, parameter)
        own = self._own.get(name, {})
        options = _options(self._commands[name])
        return found | {options[key].name or key: self._value(key, value, options[key]) for key, value in own.items()}

    def _checked(self) -> Iterator[tuple[str, Any]]:
        """The keys for every command; those of all tables have been checked then."""
        everywhere = {key: option for command in self._commands.values() for key, option in _options(command).items()}
        for key in self._shared:
            self._require(key, [*everywhere, *self._commands], "")
        for name, own in self._own.items():
            if not isinstance(own, Mapping):
                raise self._error(f"{name!r} is a command, and takes a table", f"write [tool.bnfold.{name}]")
            for key in own:
                self._require(key, list(_options(self._commands[name])), f".{name}")
        yield from self._shared.items()

    def _require(self, key: str, known: list[str], table: str) -> None:
        if key in _COMMAND_LINE_ONLY:
            raise self._error(f"{key!r} can be said on the command line only", "remove it from the file")
        if key in known:
            return
        close = get_close_matches(key, known, n=1)
        remedy = f"did you mean {close[0]!r}?" if close else "`bnfold COMMAND --help` lists the options"
        raise self._error(f"[tool.bnfold{table}] has the unknown key {key!r}", remedy)

    def _value(self, key: str, value: object, option: click.Option) -> object:
        """A TOML value, as click would get it from a command line; its type converts and judges it."""
        if option.is_flag:
            if isinstance(value, bool):
                return value
            raise self._error(f"{key!r} is {value!r}, but is a switch", "write true or false")
        if value is True and isinstance(option.flag_value, str):  # --verify may stand alone
            return option.flag_value
        if option.multiple:
            return tuple(self._text(key, item) for item in (value if isinstance(value, list) else [value]))
        if isinstance(value, list):
            return ",".join(self._text(key, item) for item in value)
        return self._text(key, value)

    def _text(self, key: str, value: object) -> str:
        if isinstance(value, str | int | float) and not isinstance(value, bool):
            return str(value)
        raise self._error(f"{key!r} is {value!r}, which is no text and no number", "write it as on the command line")

    def _error(self, what: str, remedy: str) -> UsageError:
        return UsageError(what, where=str(self.file), remedy=remedy)


def settings_file(folder: Path) -> tuple[Path, Table] | None:
    """The nearest pyproject.toml, in ``folder`` or above, with a table for bnfold; and the table. Raises UsageError."""
    for place in (folder, *folder.parents):
        file = place / "pyproject.toml"
        try:
            content = file.read_bytes()
        except (FileNotFoundError, NotADirectoryError, PermissionError):
            continue
        if b"bnfold" in content and (table := _table(file, content)) is not None:
            return file, table
    return None


def _table(file: Path, content: bytes) -> Table | None:
    import tomllib

    try:
        table = tomllib.loads(content.decode("utf-8")).get("tool", {}).get("bnfold")
    except ValueError as error:
        raise UsageError(f"pyproject.toml cannot be read: {error}", where=str(file), remedy="correct it") from error
    return table if isinstance(table, Mapping) else None


def _options(command: click.Command) -> dict[str, click.Option]:
    """A command's options by their long names, without the dashes."""
    return {
        max(option.opts, key=len).removeprefix("--"): option
        for option in command.params
        if isinstance(option, click.Option)
    }
