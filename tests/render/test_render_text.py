"""What people read, as a whole: the texts stand in ``golden/``, one file a report and width."""

from __future__ import annotations

import dataclasses
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sample_reports as sample

from bnfold.core.reason import Reason
from bnfold.records import ConvertReport, DataRecord, LayerError, Report
from bnfold.render.page import Page, laid_out
from bnfold.render.reasons import reason_blocks, reason_table
from bnfold.render.text import to_text, warnings_of

GOLDEN = Path(__file__).with_name("golden")
PAGES = {"file": Page(), "80": Page(width=80), "details": Page(details=True)}


@pytest.mark.parametrize("page", PAGES.values(), ids=PAGES)
@pytest.mark.parametrize("name", sample.REPORTS)
def test_the_text_is_the_one_we_have_read(name: str, page: Page) -> None:
    width = next(key for key, value in PAGES.items() if value is page)
    expected = (GOLDEN / f"{name}.{width}.txt").read_text(encoding="utf-8")
    assert to_text(sample.REPORTS[name], page) == expected


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("report", sample.REPORTS.values(), ids=sample.REPORTS)
def test_no_line_is_wider_than_the_terminal(report: Report, width: int) -> None:
    assert max(map(len, to_text(report, Page(width=width, details=True)).splitlines())) <= width


@pytest.mark.parametrize(
    ("report", "line"),
    [
        pytest.param(
            sample.INSPECTION, "found 3 batch norms: 1 folded, 2 kept; also folded 1 run of constants", id="3"
        ),
        pytest.param(sample.NOTHING_FOUND, "found 0 batch norms", id="0"),
        pytest.param(
            replace(sample.NOTHING_FOUND, also_merged=2),
            "found 0 batch norms; merged 2 layers into those beside them",
            id="layers alone",
        ),
        pytest.param(sample.DRY_RUN, "nothing was written", id="dry run"),
        pytest.param(sample.CONVERSION, "wrote models/model.folded.onnx (261.0 kB)", id="written"),
        pytest.param(sample.PASSED, "PASS", id="same"),
        pytest.param(sample.FAILED, "FAIL", id="other"),
        pytest.param(sample.BENCHMARK, "PASS: 5 % slower is allowed", id="not slower"),
    ],
)
def test_the_last_line_is_the_verdict(report: Report, line: str) -> None:
    assert to_text(report, Page()).splitlines()[-1] == line


def test_a_remedy_is_said_once_for_each_reason() -> None:
    assert to_text(sample.INSPECTION, Page()).count(sample.FAN_OUT.remedy) == 1


HOSTILE = "bn\x1b[2J\n[bold]\u202ebn"
ESCAPED = r"bn\x1b[2J\n[bold]\u202ebn"


def hostile(value: Any) -> Any:
    """The value with every name in it replaced by a hostile one."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = {"path", "name", "at", "detail", "remedy", "model", "runtime", "note", "processor"}
        changes = {
            field.name: HOSTILE if field.name in names else hostile(getattr(value, field.name))
            for field in dataclasses.fields(value)
            if field.init
        }
        return dataclasses.replace(value, **changes)
    if isinstance(value, tuple):
        return tuple(HOSTILE if isinstance(item, str) else hostile(item) for item in value)
    return value


@pytest.mark.parametrize("report", sample.REPORTS.values(), ids=sample.REPORTS)
def test_names_from_a_model_are_escaped_everywhere(report: Report) -> None:
    text = to_text(hostile(report), Page(details=True))
    assert ESCAPED in text
    assert text.replace("\n", "").isprintable()
    assert "".join(warnings_of(hostile(report))).isprintable()


def test_warnings_name_their_batch_norm_and_come_once() -> None:
    assert warnings_of(sample.INSPECTION) == [
        "/features/bn1: the largest scale is 1e4 times the smallest",
        "the model has no opset import",
    ]


def test_warnings_of_a_verification_inside_a_conversion_are_not_lost() -> None:
    report: ConvertReport = dataclasses.replace(sample.CONVERSION, verification=sample.FAILED)
    assert sample.FAILED.warnings[0] in warnings_of(report)


SCALINGS = {
    "none": ((None, None, None), "32"),
    "as it is": ((1.0, 0.0, 1.0), "32"),
    "pixels": ((255.0, 0.0, 1.0), "scaled to x / 255"),
    "mean": ((1.0, 0.5, 1.0), "scaled to x - 0.5"),
    "all": ((255.0, 0.1307, 0.3081), "scaled to (x / 255 - 0.1307) / 0.3081"),
    "a mean below zero": ((255.0, -0.5, 0.5), "scaled to (x / 255 - -0.5) / 0.5"),
}


@pytest.mark.parametrize(("scaling", "end"), SCALINGS.values(), ids=SCALINGS)
def test_the_scaling_that_was_used_is_said(scaling: tuple[float | None, float | None, float | None], end: str) -> None:
    data = DataRecord("digits.npz", 64, 32, labelled=True, scale=scaling[0], mean=scaling[1], std=scaling[2])
    text = to_text(dataclasses.replace(sample.PASSED, data=data), Page())
    assert next(line for line in text.splitlines() if line.startswith("inputs:")).endswith(end)


def test_a_batch_norm_that_is_its_own_obstacle_is_not_named_twice() -> None:
    itself = dataclasses.replace(sample.KEPT, reason=dataclasses.replace(sample.FAN_OUT, at=sample.KEPT.name))
    text = to_text(dataclasses.replace(sample.INSPECTION, batch_norms=(itself,)), Page())
    assert text.count(sample.KEPT.name) == 1


def test_what_cannot_be_compared_is_said() -> None:
    comparison = dataclasses.replace(sample.PASSED.as_written, outputs=(), differences=("output 'y' is missing",))
    text = to_text(dataclasses.replace(sample.PASSED, as_written=comparison, passed=False), Page())
    assert "output 'y' is missing\n" in text


@pytest.mark.parametrize("reason", Reason, ids=lambda reason: reason.slug)
def test_a_reason_is_explained_with_its_remedy(reason: Reason) -> None:
    text = laid_out(reason_blocks(reason), Page())
    assert text.startswith(f"{reason.code} {reason.slug}: {reason.title}\n")
    assert reason.why in text
    assert text.endswith(f"What to do: {reason.remedy}\n")


def test_the_table_of_reasons_names_every_one() -> None:
    lines = laid_out(reason_table(Reason), Page()).splitlines()
    assert [line.split()[0] for line in lines[1 : 1 + len(Reason)]] == [reason.code for reason in Reason]


def test_on_a_terminal_of_the_usual_width_no_meaning_of_a_reason_is_cut() -> None:
    text = " ".join(laid_out(reason_table(Reason), Page(width=80)).split())
    assert [reason for reason in Reason if reason.title.split()[-1] not in text] == []
    assert "…" not in text


def test_the_outputs_of_a_verification_have_names_on_the_narrowest_page() -> None:
    assert "logits" in to_text(sample.PASSED, Page(width=40))


def test_of_many_inner_values_those_that_differ_most_are_shown_in_their_order() -> None:
    errors = [float("nan"), *(index * 1e-9 for index in range(29))]
    layers = tuple(LayerError(f"value {index}", error, error) for index, error in enumerate(errors))
    report = dataclasses.replace(sample.PASSED, layers=layers)
    text = to_text(report, Page())
    shown = [int(line.split()[1]) for line in text.splitlines() if line.startswith("value ") and line[6].isdigit()]
    assert shown == [0, *range(11, 30)]
    assert "the 20 that differ most (--verbose shows all)" in text
    assert to_text(report, Page(details=True)).count("\nvalue ") == 31
