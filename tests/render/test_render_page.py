from __future__ import annotations

import io
import os

import pytest

from bnfold.render.page import Block, Column, Page, Styled, Table, is_live, laid_out, page_of

TABLE = Table(
    (
        Column("name", wraps=True),
        Column("verdict"),
        Column("mean error", "right", drop=1),
        Column("dtype", drop=2),
    ),
    [("/features/bn1", Styled("folded", "green"), "1.0e-07", "float32"), ("/bn2", "kept", "0", "float16")],
)
ENDLESS = """\
name           verdict  mean error  dtype
/features/bn1  folded      1.0e-07  float32
/bn2           kept              0  float16
"""


class Terminal(io.StringIO):
    """A stream that says it is a terminal, of no size of its own."""

    def isatty(self) -> bool:
        return True

    def fileno(self) -> int:
        raise OSError


def test_a_table_that_fits_keeps_its_columns() -> None:
    assert laid_out([TABLE], Page(width=80)) == ENDLESS
    assert laid_out([TABLE], Page(width=43)) == ENDLESS


@pytest.mark.parametrize(
    ("width", "titles"),
    [
        pytest.param(42, "name           verdict  mean error", id="the most expendable goes first"),
        pytest.param(33, "name           verdict", id="then the next"),
    ],
)
def test_a_narrow_table_drops_columns(width: int, titles: str) -> None:
    lines = laid_out([TABLE], Page(width=width)).splitlines()
    assert lines[0] == titles
    assert len(lines) == 3


def test_a_column_goes_on_in_the_next_line_only_where_dropping_is_not_enough() -> None:
    lines = laid_out([TABLE], Page(width=17)).splitlines()
    assert lines == ["name      verdict", "/feature  folded", "s/bn1", "/bn2      kept"]


@pytest.mark.parametrize("width", [40, 60, 80])
def test_names_that_differ_at_their_ends_are_told_apart_on_a_narrow_page(width: int) -> None:
    names = [f"node__native_batch_norm_legit_no_training_{index}__0" for index in range(3)]
    columns = (Column("batch norm", wraps=True), Column("verdict"), Column("into what", wraps=True))
    text = laid_out([Table(columns, [(name, "kept", "because " * 9) for name in names])], Page(width=width))
    lines = text.splitlines()
    start = next(line.index("verdict") for line in lines if "verdict" in line)
    assert "".join(line[:start].strip() for line in lines).endswith("".join(names))
    assert text.count("because") == 27
    assert "…" not in text


@pytest.mark.parametrize("width", [5, 10, 20, 30, 60])
def test_no_line_of_a_table_is_wider_than_the_page(width: int) -> None:
    assert max(map(len, laid_out([TABLE], Page(width=width)).splitlines())) <= width


def test_into_a_file_nothing_is_cut_or_wrapped() -> None:
    long = "x" * 5000
    table = Table((Column("name", wraps=True), Column("dtype", drop=1)), [(long, "float32")])
    assert laid_out([table, "words " * 1000], Page()).splitlines() == [
        "name".ljust(5002) + "dtype",
        f"{long}  float32",
        ("words " * 1000).rstrip(),
    ]


def test_long_text_is_wrapped_on_a_terminal() -> None:
    lines = laid_out(["one two three four five six seven"], Page(width=14)).splitlines()
    assert lines == ["one two three", "four five six", "seven"]


def test_without_colours_there_are_no_control_codes() -> None:
    text = laid_out([Styled("PASS", "bold green"), TABLE], Page())
    assert text.replace("\n", "").isprintable()


def test_with_colours_there_are() -> None:
    assert laid_out([Styled("PASS", "bold green")], Page(width=80, colours=True)) == "\x1b[1;32mPASS\x1b[0m\n"


@pytest.mark.parametrize("name", ["[bold]conv[/bold]", "[/]", "[link=http://x]a[/link]", ":smile:", "conv[0]", "\\[x]"])
@pytest.mark.parametrize("colours", [True, False], ids=["colours", "plain"])
def test_markup_in_a_name_is_only_text(name: str, *, colours: bool) -> None:
    table = Table((Column("name"),), [(name,), (Styled(name),)])
    assert laid_out([name, table], Page(colours=colours)).count(name) == 3


def test_wide_characters_are_measured_as_terminals_draw_them() -> None:
    table = Table((Column("name"), Column("verdict")), [("层", "kept"), ("bn", "folded")])
    assert laid_out([table], Page()).splitlines() == ["name  verdict", "层    kept", "bn    folded"]


@pytest.mark.parametrize(
    ("environment", "colours"),
    [
        pytest.param({}, True, id="plain"),
        pytest.param({"NO_COLOR": "1"}, False, id="NO_COLOR"),
        pytest.param({"NO_COLOR": ""}, True, id="empty NO_COLOR"),
        pytest.param({"TERM": "dumb"}, False, id="dumb"),
        pytest.param({"TERM": "xterm-256color"}, True, id="xterm"),
    ],
)
def test_a_terminal_has_colours_unless_told_otherwise(environment: dict[str, str], *, colours: bool) -> None:
    assert page_of(Terminal(), environment) == Page(width=80, colours=colours)


@pytest.mark.parametrize("environment", [{}, {"COLUMNS": "40"}, {"FORCE_COLOR": "1"}], ids=str)
def test_a_file_is_an_endless_plain_page(environment: dict[str, str]) -> None:
    assert page_of(io.StringIO(), environment, details=True) == Page(width=None, colours=False, details=True)


def test_the_width_is_the_terminals(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Terminal()
    monkeypatch.setattr(stream, "fileno", lambda: 1)
    monkeypatch.setattr("os.get_terminal_size", lambda _descriptor: os.terminal_size((123, 40)))
    assert page_of(stream, {}).width == 123


def test_lines_are_redrawn_on_a_capable_terminal_only() -> None:
    assert is_live(Terminal(), {"TERM": "xterm"})
    assert not is_live(Terminal(), {"TERM": "dumb"})
    assert not is_live(io.StringIO(), {})


def test_a_file_gets_what_a_terminal_of_any_width_would() -> None:
    wide = Table(TABLE.columns, [*TABLE.rows, ("卷积/bn1", Styled("kept", "bold"), "12.5", ""), ("", "", "", "")])
    blocks: list[Block] = [
        "a heading",
        "",
        wide,
        Table(TABLE.columns, []),
        Styled("two\nlines, and [markup]", "bold"),
        "",
    ]
    assert laid_out(blocks, Page()) == laid_out(blocks, Page(width=1_000_000))
