"""What programs that watch a pipeline read: JUnit XML and workflow commands; and the HTML page beside them."""

from __future__ import annotations

import dataclasses
from html.parser import HTMLParser
from xml.etree import ElementTree as ET

import pytest
import sample_reports as sample

from bnfold.files.names import printable
from bnfold.records import Report, VerifyReport
from bnfold.render.github import to_github
from bnfold.render.html import to_html
from bnfold.render.junit import to_junit
from bnfold.render.markdown import to_markdown
from bnfold.render.page import Page
from bnfold.render.text import to_text

COUNTS = {
    "inspect": (3, 2, 0),
    "inspect-nothing": (0, 0, 0),
    "convert": (1 + 2 + 5, 0, 0),
    "convert-dry-run": (1, 0, 0),
    "verify-passed": (2, 0, 0),
    "verify-failed": (3, 0, 2),
    "verify-trapped": (2, 0, 0),
    "bench": (5, 0, 0),
    "calibrate": (3, 1, 0),
    "calibrate-nothing": (1, 0, 0),
}
"""Tests, skipped, failures."""


@pytest.mark.parametrize("name", sample.REPORTS)
def test_a_suite_counts_what_was_checked(name: str) -> None:
    (suite,) = ET.fromstring(to_junit([sample.REPORTS[name]]))  # noqa: S314 - our own
    found = tuple(int(suite.attrib[key]) for key in ("tests", "skipped", "failures"))
    assert found == COUNTS[name]
    assert found == tuple(len(suite.findall(path)) for path in ("testcase", "testcase/skipped", "testcase/failure"))


def test_a_batch_norm_that_stays_is_skipped_with_its_reason() -> None:
    root = ET.fromstring(to_junit([sample.INSPECTION]))  # noqa: S314 - our own
    folded, kept, _ = root.iter("testcase")
    assert (folded.attrib["classname"], folded.attrib["name"]) == ("models/model.onnx", "/features/bn1")
    assert folded.findtext("system-out") == "into /features/conv1"
    (skipped,) = kept
    assert skipped.attrib["message"] == (
        "BNF202 fan-out at /features/conv2: /features/add reads it too. "
        "Let the other readers read the batch norm's output."
    )


def test_what_failed_says_by_how_much() -> None:
    root = ET.fromstring(to_junit([sample.FAILED]))  # noqa: S314 - our own
    messages = [element.attrib["message"] for element in root.iter("failure")]
    assert messages == [
        "relative error nan, tolerance 1.0e-05, NaN or Inf in other places",
        "12 of 10,000 predictions flipped (2 allowed)",
    ]


def test_a_slow_model_fails_where_a_limit_was_set() -> None:
    slow = dataclasses.replace(sample.BENCHMARK, passed=False)
    root = ET.fromstring(to_junit([slow, sample.PASSED]))  # noqa: S314 - our own
    assert [suite.attrib["failures"] for suite in root] == ["1", "0"]
    assert "::error title=bnfold::time: 5 % slower is allowed\n".replace("%", "%25") in to_github(slow)


def test_a_conversion_that_is_not_what_was_asked_for_fails_in_every_form() -> None:
    unmet = "--require-fold=all is not met: 1 of 2 batch norms folded"
    report = dataclasses.replace(sample.DRY_RUN, unmet=unmet)
    (failure,) = ET.fromstring(to_junit([report])).iter("failure")  # noqa: S314 - our own
    assert failure.attrib["message"] == unmet
    assert f"::error title=bnfold::what was asked for: {unmet}\n" in to_github(report)
    assert to_text(report, Page()).endswith(f"\nnothing was written: {unmet}\n")
    assert f"\nnothing was written: {unmet}\n" in to_markdown(report)


@pytest.mark.parametrize(
    ("verification", "verdict"), [(sample.PASSED, "PASS"), (sample.FAILED, "FAIL")], ids=["PASS", "FAIL"]
)
def test_the_annotation_of_a_conversion_says_whether_it_was_verified(verification: VerifyReport, verdict: str) -> None:
    report = dataclasses.replace(sample.CONVERSION, verification=verification)
    notice, *_ = to_github(report).splitlines()
    assert notice.endswith(f"1 folded, 0 kept; verified: {verdict}")


def test_annotations_of_a_plan() -> None:
    notice, first, second, warning, *_ = to_github(sample.INSPECTION).splitlines()
    assert notice == (
        "::notice title=bnfold::models/model.onnx: "
        "found 3 batch norms: 1 folded, 2 kept; also folded 1 run of constants"
    )
    assert first.startswith("::warning title=bnfold::/features/bn2: BNF202 fan-out at /features/conv2")
    assert second.startswith("::warning title=bnfold::/features/bn3: ")
    assert warning.startswith("::warning title=bnfold::/features/bn1: the largest scale")


@pytest.mark.parametrize(
    ("kept", "lines", "last"),
    [
        pytest.param(10, 10, "kept 9: ", id="ten are shown"),
        pytest.param(11, 10, "and 2 more, which a --report file lists", id="of more the last says how many"),
    ],
)
def test_github_shows_ten_annotations_of_a_kind(kept: int, lines: int, last: str) -> None:
    items = tuple(dataclasses.replace(sample.KEPT, name=f"kept {index}") for index in range(kept))
    report = dataclasses.replace(sample.NOTHING_FOUND, batch_norms=items)
    warnings = [line for line in to_github(report).splitlines() if line.startswith("::warning")]
    assert len(warnings) == lines
    assert warnings[-1].startswith(f"::warning title=bnfold::{last}")


def test_a_verdict_is_a_notice_or_errors() -> None:
    assert to_github(sample.PASSED) == ("::notice title=bnfold::models/model.onnx and models/model.folded.onnx: PASS\n")
    levels = [line.split()[0] for line in to_github(sample.FAILED).splitlines()]
    assert levels == ["::notice", "::error", "::error", "::warning"]


@pytest.mark.parametrize("word", [word for word in sample.HOSTILE.values() if word.strip()])
@pytest.mark.parametrize("name", sample.REPORTS)
def test_hostile_names_change_no_structure(name: str, word: str) -> None:
    usual, hostile = (sample.hostile(sample.REPORTS[name], each) for each in ("name", word))
    assert len(to_github(usual).splitlines()) >= len(to_github(hostile).splitlines())
    assert all(line.startswith("::") for line in to_github(hostile).splitlines())
    elements = [[e.tag for e in ET.fromstring(to_junit([each])).iter()] for each in (usual, hostile)]  # noqa: S314
    assert [tag for tag in elements[1] if tag != "system-out"] == [tag for tag in elements[0] if tag != "system-out"]
    assert Seen(to_html([usual])).tags == Seen(to_html([hostile])).tags


class Seen(HTMLParser):
    """A page's elements and its text; a tag that is closed in another order than it was opened is an error."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[str] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(page)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert not {name for name, _ in attrs} & {"src", "href", "onload"}
        self.tags.append(tag)
        if tag != "meta":
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.mark.parametrize("report", sample.REPORTS.values(), ids=sample.REPORTS)
def test_a_page_shows_all_that_the_text_does(report: Report) -> None:
    page = Seen(to_html([report]))
    assert "script" not in page.tags
    for file in (report.source,) if hasattr(report, "source") else ():
        assert printable(file.path) in page.text
        assert file.sha256 in page.text


def test_several_reports_stand_on_one_page() -> None:
    assert Seen(to_html([sample.PASSED, sample.FAILED])).tags.count("section") == 2
