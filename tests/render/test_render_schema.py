from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import sample_reports as sample
from jsonschema import Draft202012Validator, ValidationError

import bnfold
from bnfold.records import Report
from bnfold.render.schema import report_schema

SHIPPED = Path(bnfold.__file__).with_name("report.schema.json")
REPORTS: dict[str, Report] = {
    "inspect": sample.INSPECTION,
    "inspect, nothing found": sample.NOTHING_FOUND,
    "convert": sample.CONVERSION,
    "verify, passed": sample.PASSED,
    "verify, failed with NaN": sample.FAILED,
    "verify, trapped": sample.TRAPPED,
    "bench": sample.BENCHMARK,
    "calibrate": sample.CALIBRATION,
    "calibrate, nothing to do": sample.NOT_CALIBRATED,
}


def validate(data: Any) -> None:
    Draft202012Validator(json.loads(SHIPPED.read_text(encoding="utf-8"))).validate(data)


def test_the_shipped_schema_is_the_one_made_from_the_records() -> None:
    # python -m bnfold.render.schema > bnfold/report.schema.json
    assert json.loads(SHIPPED.read_text(encoding="utf-8")) == report_schema()


def test_the_schema_is_a_valid_schema() -> None:
    Draft202012Validator.check_schema(report_schema())


BROKEN = {
    "no command": {"command": None},
    "another command": {"command": "fold"},
    "a later schema": {"schema": "bnfold.report/2"},
    "a count that is no number": {"found": "3"},
    "no batch norms": {"batch_norms": None},
    "an unknown verdict": {"batch_norms": [{"verdict": "neutralised"}]},
}


@pytest.mark.parametrize("change", BROKEN.values(), ids=BROKEN)
def test_what_is_no_report_does_not_validate(change: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        validate({**sample.INSPECTION.to_dict(), **change})


def test_a_missing_field_does_not_validate() -> None:
    data = sample.INSPECTION.to_dict()
    del data["kept"]
    with pytest.raises(ValidationError):
        validate(data)


@pytest.mark.parametrize("report", REPORTS.values(), ids=REPORTS)
def test_reports_validate(report: Report) -> None:
    validate(json.loads(report.to_json()))
