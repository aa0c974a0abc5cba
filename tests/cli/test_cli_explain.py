from __future__ import annotations

import json

import pytest
from cli_fixtures import CommandLine

from bnfold.core.reason import Reason
from bnfold.render.reasons import reason_data, reason_markdown, reasons_markdown


@pytest.mark.parametrize(
    ("code", "suggestion"),
    [
        ("fan-otu", "did you mean BNF202 (fan-out)?"),
        ("fan-in", "did you mean BNF202 (fan-out)?"),
        ("paded-input", "did you mean BNF206 (padded-input)?"),
        ("999", "bnfold explain lists them all"),
        ("", "bnfold explain lists them all"),
        ("bn\x1b[2J", "bnfold explain lists them all"),
    ],
)
def test_an_unknown_reason_is_exit_code_2_with_near_names(bnfold: CommandLine, code: str, suggestion: str) -> None:
    outcome = bnfold("explain", code)
    assert outcome.code == 2
    assert suggestion in outcome.err
    assert outcome.err.replace("\n", "").isprintable()
    assert outcome.out == ""


@pytest.mark.parametrize("code", ["BNF202", "bnf202", "202", "fan-out", "FAN-OUT", "FAN_OUT", " 202 "])
def test_a_reason_is_found_by_code_number_and_name(bnfold: CommandLine, code: str) -> None:
    outcome = bnfold("explain", code)
    assert outcome.code == 0
    assert outcome.out.startswith("BNF202 fan-out: ")
    assert Reason.FAN_OUT.remedy in outcome.out


def test_without_a_code_all_are_listed(bnfold: CommandLine) -> None:
    out = bnfold("explain").out
    assert all(f"{reason.code}  {reason.slug}" in out for reason in Reason)


def test_one_reason_as_json(bnfold: CommandLine) -> None:
    assert json.loads(bnfold("explain", "202", "--format", "json").out) == reason_data(Reason.FAN_OUT)


def test_all_reasons_as_json(bnfold: CommandLine) -> None:
    data = json.loads(bnfold("explain", "--format", "json").out)
    assert data == [reason_data(reason) for reason in Reason]


def test_reasons_as_markdown(bnfold: CommandLine) -> None:
    assert bnfold("explain", "202", "--format", "markdown").out == reason_markdown(Reason.FAN_OUT)
    assert bnfold("explain", "--format", "markdown").out == reasons_markdown(Reason)
