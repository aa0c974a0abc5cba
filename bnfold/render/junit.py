"""Reports as JUnit XML, which the test tabs of CI services show.

There is no standard; this is the part of the form that pytest and Maven Surefire write alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from bnfold.files.names import printable
from bnfold.records import BenchReport, CalibrateReport, PlanReport, Report, VerifyReport
from bnfold.render.checks import checks_of
from bnfold.render.text import warnings_of

_ABOUT_A_FILE = PlanReport | VerifyReport | BenchReport | CalibrateReport


def to_junit(reports: Sequence[Report]) -> str:
    """The reports as one document, a test suite each, a test case for each check."""
    root = Element("testsuites", name="bnfold")
    for report in reports:
        _add_suite(root, report)
    indent(root)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{tostring(root, encoding="unicode")}\n'


def _add_suite(root: Element, report: Report) -> None:
    checks = checks_of(report)
    outcomes = [check.outcome for check in checks]
    about = printable(report.source.path) if isinstance(report, _ABOUT_A_FILE) and report.source else ""
    suite = SubElement(root, "testsuite", name=f"bnfold: {about}", tests=str(len(checks)), errors="0")
    suite.set("failures", str(outcomes.count("failed")))
    suite.set("skipped", str(outcomes.count("skipped")))
    for check in checks:
        case = SubElement(suite, "testcase", classname=about, name=check.name)
        if check.outcome == "passed":
            SubElement(case, "system-out").text = check.text
        else:
            SubElement(case, "failure" if check.outcome == "failed" else "skipped", message=check.text)
    if warnings := warnings_of(report):
        SubElement(suite, "system-err").text = "\n".join(warnings)
