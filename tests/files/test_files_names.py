from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bnfold.files.names import printable

ESCAPED = {
    "newline": ("conv\n1", r"conv\n1"),
    "carriage return": ("conv\r1", r"conv\r1"),
    "tab": ("conv\t1", r"conv\t1"),
    "null": ("conv\x00", r"conv\x00"),
    "ANSI sequence": ("\x1b[31mred\x1b[0m", r"\x1b[31mred\x1b[0m"),
    "C1 control": ("\x9b31m", r"\x9b31m"),
    "delete": ("\x7f", r"\x7f"),
    "lone surrogate": ("model\udcff", r"model\udcff"),
    "right-to-left override": ("\u202egpj.exe", r"\u202egpj.exe"),
    "isolate": ("\u2066x\u2069", r"\u2066x\u2069"),
    "zero width space": ("a\u200bb", r"a\u200bb"),
    "byte order mark": ("\ufeffa", r"\ufeffa"),
    "line separator": ("a\u2028b", r"a\u2028b"),
    "no-break space": ("a\u00a0b", r"a\xa0b"),
    "private use": ("\U000f0000", r"\U000f0000"),
}
KEPT = ["", "/features/conv1", "input:0", "层.1", "γ·x", "naïve", "[bold]x[/bold]", "a b", r"C:\models\a"]


@pytest.mark.parametrize(("name", "shown"), ESCAPED.values(), ids=ESCAPED)
def test_what_could_fool_a_terminal_is_escaped(name: str, shown: str) -> None:
    assert printable(name) == shown


@pytest.mark.parametrize("name", KEPT)
def test_an_ordinary_name_stays_as_it_is(name: str) -> None:
    assert printable(name) == name


@given(st.text(st.characters(exclude_categories=())))
def test_the_result_is_one_printable_line_and_stays_so(name: str) -> None:
    shown = printable(name)
    assert shown.isprintable()
    assert shown.encode("utf-8").decode("utf-8") == shown
    assert printable(shown) == shown
