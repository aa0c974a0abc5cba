"""Markdown is read by a Markdown parser here, as GitHub would: what counts is what a reader sees."""

from __future__ import annotations

import dataclasses
import itertools
from html.parser import HTMLParser
from pathlib import Path

import pytest
import sample_reports as sample
from markdown_it import MarkdownIt
from markdown_it.token import Token

from bnfold.files.names import printable
from bnfold.records import Report
from bnfold.render.markdown import blocks_to_markdown, code, plain, to_markdown
from bnfold.render.page import Column, Styled, Table

GOLDEN = Path(__file__).with_name("golden")
PARSER = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])


class Seen(HTMLParser):
    """What a page shows: the text, and which of it is in code."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.text: list[str] = []
        self.code: list[str] = []
        self.tags: list[str] = []
        self._depth = 0
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:  # noqa: ARG002 - the parser's
        self.tags.append(tag)
        if tag == "code":
            self._depth += 1
            self.code.append("")

    def handle_endtag(self, tag: str) -> None:
        self._depth -= tag == "code"

    def handle_data(self, data: str) -> None:
        self.text.append(data)
        if self._depth:
            self.code[-1] += data


def rows_of(page: str) -> list[list[Token]]:
    """The cells of every table's rows, headings included."""
    rows: list[list[Token]] = []
    tokens = PARSER.parse(page)
    for token, following in itertools.pairwise(tokens):
        if token.type == "tr_open":
            rows.append([])
        if token.type in {"th_open", "td_open"}:
            rows[-1].append(following)
    return rows


@pytest.mark.parametrize("name", sample.HOSTILE.values(), ids=sample.HOSTILE)
def test_a_name_in_code_is_shown_as_it_is_and_does_nothing(name: str) -> None:
    page = f"| name | verdict |\n| --- | --- |\n| {code(name)} | kept |\n"
    seen = Seen(PARSER.render(page))
    assert [len(row) for row in rows_of(page)] == [2, 2]
    assert seen.code == [printable(name)]
    assert set(seen.tags) == {"table", "thead", "tbody", "tr", "th", "td", "code"}


@pytest.mark.parametrize("text", sample.HOSTILE.values(), ids=sample.HOSTILE)
def test_a_sentence_is_shown_as_it_is_and_calls_nobody(text: str) -> None:
    page = f"| detail | verdict |\n| --- | --- |\n| {plain(text)} | kept |\n"
    seen = Seen(PARSER.render(page))
    assert [len(row) for row in rows_of(page)] == [2, 2]
    assert printable(text).strip() in "".join(seen.text)
    assert set(seen.tags) <= {"table", "thead", "tbody", "tr", "th", "td", "code"}
    outside = "".join(part for part in seen.text if part not in seen.code)
    assert "@" not in outside
    assert "#" not in outside


@pytest.mark.parametrize("word", [word for word in sample.HOSTILE.values() if word.strip()])
@pytest.mark.parametrize("name", sample.REPORTS)
def test_hostile_names_leave_the_structure_of_a_report_as_it_is(name: str, word: str) -> None:
    usual, page = (to_markdown(sample.hostile(sample.REPORTS[name], each), details=True) for each in ("name", word))
    assert [len(row) for row in rows_of(page)] == [len(row) for row in rows_of(usual)]
    tags = [[tag for tag in Seen(PARSER.render(each)).tags if tag != "code"] for each in (page, usual)]
    assert tags[0] == tags[1]
    assert page.replace("\n", "").isprintable()


@pytest.mark.parametrize("name", sample.REPORTS)
def test_the_markdown_is_the_one_we_have_read(name: str) -> None:
    assert to_markdown(sample.REPORTS[name]) == (GOLDEN / f"{name}.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("report", "heading"),
    [
        pytest.param(sample.INSPECTION, "bnfold inspect: found 3 batch norms: 1 folded, 2 kept", id="inspect"),
        pytest.param(sample.CONVERSION, "bnfold convert: found 1 batch norm: 1 folded, 0 kept", id="convert"),
        pytest.param(sample.PASSED, "bnfold verify: PASS", id="passed"),
        pytest.param(sample.FAILED, "bnfold verify: FAIL", id="failed"),
        pytest.param(dataclasses.replace(sample.BENCHMARK, passed=False), "bnfold bench: FAIL", id="too slow"),
        pytest.param(dataclasses.replace(sample.BENCHMARK, fail_if_slower_percent=None), "bnfold bench", id="bench"),
    ],
)
def test_the_heading_is_the_verdict(report: Report, heading: str) -> None:
    assert to_markdown(report).splitlines()[0].startswith(f"### {heading}")


def test_a_kept_batch_norm_is_in_sight_with_its_reason_and_remedy() -> None:
    page = to_markdown(sample.INSPECTION)
    line = next(line for line in page.splitlines() if sample.KEPT.name in line)
    assert page.index(line) < page.index("<details>")
    for part in (sample.FAN_OUT.code, sample.FAN_OUT.slug, sample.FAN_OUT.at, sample.FAN_OUT.detail):
        assert part in line
    assert sample.FAN_OUT.remedy in line


def test_warnings_are_in_the_comment() -> None:
    assert "> **warning:** the model has no opset import" in to_markdown(sample.INSPECTION)


def test_details_add_the_hashes() -> None:
    assert sample.SOURCE.sha256 in to_markdown(sample.INSPECTION, details=True)
    assert sample.SOURCE.sha256 not in to_markdown(sample.INSPECTION)


def test_what_is_laid_out_elsewhere_becomes_paragraphs_and_tables() -> None:
    table = Table((Column("name", wraps=True), Column("size", "right")), [("a_b", Styled("1 kB", "green"))])
    text = blocks_to_markdown([Styled("head_line", "bold"), "", table, "one *two*"])
    assert text == "**head\\_line**\n\n| name | size |\n| --- | ---: |\n| `a_b` | 1 kB |\n\none \\*two\\*\n"
