from __future__ import annotations

import dataclasses
import json
import math

import pytest
import sample_reports as sample

from bnfold.records import Report

REPORTS = {
    "inspect": sample.INSPECTION,
    "inspect, nothing found": sample.NOTHING_FOUND,
    "convert": sample.CONVERSION,
    "verify, passed": sample.PASSED,
    "verify, failed": sample.FAILED,
    "verify, trapped": sample.TRAPPED,
    "bench": sample.BENCHMARK,
    "calibrate": sample.CALIBRATION,
    "calibrate, nothing to do": sample.NOT_CALIBRATED,
}


@pytest.mark.parametrize("report", REPORTS.values(), ids=REPORTS)
def test_json_reads_back_as_the_same_data(report: Report) -> None:
    assert json.loads(report.to_json()) == report.to_dict()


@pytest.mark.parametrize("report", REPORTS.values(), ids=REPORTS)
def test_json_begins_with_the_schema_and_the_command(report: Report) -> None:
    data = report.to_dict()
    assert list(data)[:2] == ["schema", "command"]
    assert data["schema"] == "bnfold.report/1"


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf], ids=str)
def test_a_number_that_is_not_finite_is_null(value: float) -> None:
    broken = dataclasses.replace(sample.LOGITS, max_abs_error=value)
    comparison = dataclasses.replace(sample.PASSED.as_written, outputs=(broken,))
    report = dataclasses.replace(sample.PASSED, as_written=comparison)
    data = json.loads(report.to_json(), parse_constant=pytest.fail)
    assert data["as_written"]["outputs"][0]["max_abs_error"] is None


def test_a_report_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        sample.INSPECTION.found = 0  # type: ignore[misc]


def test_a_name_with_a_lone_surrogate_is_valid_json() -> None:
    source = dataclasses.replace(sample.SOURCE, path="model\udcff.onnx")
    text = dataclasses.replace(sample.INSPECTION, source=source).to_json()
    assert json.loads(text.encode("ascii"))["source"]["path"] == "model\udcff.onnx"
