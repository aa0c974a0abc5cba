"""Reports as workflow commands, which GitHub Actions shows as annotations of a run.

https://docs.github.com/actions/reference/workflow-commands-for-github-actions
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal

from bnfold.errors import BnfoldError
from bnfold.files.names import printable
from bnfold.records import BenchReport, CalibrateReport, ConvertReport, PlanReport, Report, VerifyReport
from bnfold.render.calibrate import summary as calibrated
from bnfold.render.checks import Check, checks_of
from bnfold.render.plan import summary
from bnfold.render.text import warnings_of

_SHOWN: Final = 9
"""GitHub shows ten annotations of a kind for each step, and drops the others without a word."""


def to_github(report: Report) -> str:
    """One notice that sums up, a warning for each batch norm that stays, an error for each check that failed."""
    checks = checks_of(report)
    lines = [
        _command("notice", _summary(report, checks)),
        *_commands("error", [_line(check) for check in checks if check.outcome == "failed"]),
        *_commands(
            "warning", [*(_line(check) for check in checks if check.outcome == "skipped"), *warnings_of(report)]
        ),
    ]
    return "".join(f"{line}\n" for line in lines)


def failure_to_github(error: BnfoldError) -> str:
    """The error annotation of work that ended without a report."""
    return _command("error", ": ".join(part for part in (error.where, error.what) if part)) + "\n"


def _summary(report: Report, checks: Sequence[Check]) -> str:
    if isinstance(report, PlanReport):
        judged = report.verification if isinstance(report, ConvertReport) else None
        verdict = "" if judged is None else f"; verified: {_verdict(judged)}"
        return f"{report.source.path}: {summary(report)}{verdict}"
    if isinstance(report, VerifyReport):
        return f"{report.source.path} and {report.output.path}: {_verdict(report)}"
    if isinstance(report, BenchReport):
        names = ", ".join(file.path for file in (report.source, *report.outputs))
        return f"timed {names}: " + "; ".join(f"{check.name}: {check.text}" for check in checks)
    if isinstance(report, CalibrateReport):
        return f"{report.source.path if report.source else 'a model in memory'}: {calibrated(report)}"
    raise TypeError(f"no annotations for {type(report).__name__}")


def _verdict(report: VerifyReport) -> str:
    return "PASS" if report.passed else "FAIL"


def _line(check: Check) -> str:
    return f"{check.name}: {check.text}"


def _commands(level: Literal["warning", "error"], texts: list[str]) -> list[str]:
    """As many as GitHub shows, and how many more there are."""
    more = len(texts) - _SHOWN
    shown = texts if more <= 1 else [*texts[:_SHOWN], f"and {more:,} more, which a --report file lists"]
    return [_command(level, text) for text in shown]


def _command(level: Literal["notice", "warning", "error"], text: str) -> str:
    """One line: ``printable`` leaves no line break in the text, and a percent sign would start an escape."""
    return f"::{level} title=bnfold::{printable(text).replace('%', '%25')}"
