"""How a command's result reaches the user: stdout, report files, warnings, and the exit code."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

from bnfold.cli.streams import prints_go_to_stderr, put_error, put_result
from bnfold.errors import BnfoldError, UsageError

if TYPE_CHECKING:
    from bnfold.records import Report
    from bnfold.render.progress import ProgressCallback

_Report = TypeVar("_Report", bound="Report")

FORMS: Final = ("text", "json", "markdown", "github", "junit")
"""What ``--format`` knows."""
FILE_FORMS: Final = {".json": "json", ".md": "markdown", ".txt": "text", ".xml": "junit", ".html": "html"}
"""The form of a ``--report`` by its suffix."""
_DOCUMENTS: Final = frozenset({"json", "junit"})
"""Forms that take several reports together; the others are printed one after the other."""


@dataclass(frozen=True)
class Presentation:
    """What the user wants to see: ``form`` is one of FORMS, ``files`` get the report besides."""

    form: str
    files: tuple[str, ...]
    quiet: bool
    verbose: bool
    hash_data: bool = False

    def check_files(self, models: Sequence[Path]) -> None:
        """Raise now, before any work, where a report could not be written or would replace a model."""
        from bnfold.files.writing import check_target, same_file

        for file in map(Path, self.files):
            if any(same_file(file, model) for model in models):
                raise UsageError(f"--report {file} would replace a model", remedy="choose another name")
            check_target(file, force=True)

    @contextlib.contextmanager
    def working(self) -> Iterator[ProgressCallback]:
        """While work runs: its progress is shown, and what it prints is no part of the result."""
        from bnfold.render.progress import progress_shown

        with prints_go_to_stderr(), progress_shown(quiet=self.quiet) as progress:
            yield progress

    def report_of(self, work: Callable[[], _Report]) -> _Report:
        """Do the work and show its report; where an error carries one, show that and let the error go on."""
        try:
            report = self.completed(work())
        except BnfoldError as error:
            if error.report is not None:
                self._show(self.completed(error.report))
            else:
                self.show_failure(error)
            raise
        self._show(report)
        return report

    def show_failure(self, error: BnfoldError) -> None:
        """Print what takes the place of a report that there is not: an annotation, in the form that has them."""
        if self.form == "github":
            from bnfold.render.github import failure_to_github

            put_result(failure_to_github(error))

    def completed(self, report: _Report) -> _Report:
        """The report, with the hashes of external data if the user wants them."""
        if not self.hash_data:
            return report
        from bnfold.reporting import with_data_hashes

        return with_data_hashes(report)

    def show_one_of_many(self, report: Report, *, first: bool) -> None:
        """Print one of several reports; ``finish_many`` follows the last."""
        if self.form not in _DOCUMENTS and not first:
            put_result("\n")
        self._print(report)

    def finish_many(self, reports: Sequence[Report]) -> None:
        """Print and write what takes several reports together: JSON is a list of them."""
        self._deliver(reports, json.dumps([report.to_dict() for report in reports], indent=2, allow_nan=False))

    def _show(self, report: Report) -> None:
        self._print(report)
        self._deliver([report], report.to_json())

    def _print(self, report: Report) -> None:
        """Print the report, unless it is to be a document, and its warnings."""
        from bnfold.render.page import page_of
        from bnfold.render.text import to_text, warnings_of

        if self.form == "text":
            put_result(to_text(report, page_of(sys.stdout, details=self.verbose)))
        elif self.form not in _DOCUMENTS:
            put_result(self._written(self.form, [report]))
        if not self.quiet:
            put_error("".join(f"warning: {warning}\n" for warning in warnings_of(report)))

    def _deliver(self, reports: Sequence[Report], as_json: str) -> None:
        """Print the document, and write each file in the form that its suffix says, over an earlier report."""
        from bnfold.files.writing import write_atomically

        if self.form in _DOCUMENTS:
            put_result(f"{as_json}\n" if self.form == "json" else self._written(self.form, reports))
        for file in map(Path, self.files):
            form = FILE_FORMS[file.suffix.lower()]
            content = f"{as_json}\n" if form == "json" else self._written(form, reports)
            write_atomically(file, content.encode("utf-8"), force=True)

    def _written(self, form: str, reports: Sequence[Report]) -> str:
        """The reports in a form other than JSON, in which one is an object and several are a list."""
        if form == "junit":
            from bnfold.render.junit import to_junit

            return to_junit(reports)
        if form == "html":
            from bnfold.render.html import to_html

            return to_html(reports)
        if form == "text":
            return self._plain_text(reports)
        if form == "github":
            from bnfold.render.github import to_github

            return "".join(map(to_github, reports))
        from bnfold.render.markdown import to_markdown

        return "\n".join(to_markdown(report, details=self.verbose) for report in reports)

    def _plain_text(self, reports: Sequence[Report]) -> str:
        from bnfold.render.page import Page
        from bnfold.render.text import to_text, warnings_of

        page = Page(details=self.verbose)
        warnings = [f"warning: {warning}\n" for report in reports for warning in warnings_of(report)]
        return "\n".join(to_text(report, page) for report in reports) + "".join(warnings)
