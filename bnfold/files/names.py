"""Names that come from a model, made safe to print."""

from __future__ import annotations


def printable(name: str) -> str:
    r"""``name`` with everything escaped that a terminal or a reader could be fooled by.

    Control characters (newlines, ANSI sequences), lone surrogates, and characters that are invisible or turn the
    direction of writing come out as ``\n``, ``\x1b``, ``\udc80``, ``\u202e``; letters of every script stay.
    """
    return "".join(character if character.isprintable() else _escaped(character) for character in name)


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
