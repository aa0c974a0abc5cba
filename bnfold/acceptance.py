"""What a conversion must meet before its output is put in place: enough folds, the same bytes, the same network."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Literal

from bnfold.conversion import Conversion
from bnfold.errors import CheckFailedError, InputError, RequirementError
from bnfold.files.comparing import ComparingStream
from bnfold.files.names import printable
from bnfold.files.writing import put, put_files
from bnfold.formats.opening import Opening
from bnfold.records import ConvertReport, SampleShapes
from bnfold.route import Route

if TYPE_CHECKING:
    from bnfold.comparison import Progress
    from bnfold.files.writing import Content


def untried(*, verify: bool, bench: bool, check: bool, dry_run: bool) -> tuple[str, ...]:
    """A warning for each trial that was asked for together with something that leaves no room for it."""
    trials = (
        (verify and check, "--verify was not run: --check compares bytes alone"),
        (bench and (check or dry_run), "--bench was not run: nothing is written"),
    )
    return tuple(warning for left_out, warning in trials if left_out)


def require_fold(report: ConvertReport, wanted: Literal["any", "all"] | None) -> None:
    """RequirementError where nothing (``any``) or not everything (``all``) folded."""
    if (wanted == "any" and report.folded == 0) or (wanted == "all" and report.kept > 0):
        unmet = f"--require-fold={wanted} is not met: {report.folded} of {report.found} batch norms folded"
        raise RequirementError(
            unmet,
            where=report.source.path,
            remedy="see `bnfold explain CODE` for each reason above; nothing was written",
            report=replace(report, unmet=unmet),
        )


def require_unchanged(report: ConvertReport, contents: Mapping[Path, Content]) -> None:
    """CheckFailedError unless every file is byte for byte what would be written."""
    for path, content in contents.items():
        if path.is_file() and _holds(path, content):
            continue
        unmet = f"{path} {'is not what would be written' if path.is_file() else 'does not exist'}"
        remedy = "run the same command without --check"
        raise CheckFailedError(unmet, remedy=remedy, report=replace(report, unmet=unmet))


def _holds(path: Path, content: Content) -> bool:
    """Whether the file at ``path`` is byte for byte ``content``."""
    try:
        with path.open("rb") as stream:
            comparing = ComparingStream(stream)
            put(content, comparing)
            return comparing.is_same()
    except OSError as error:
        raise InputError(f"cannot read {printable(str(path))}: {error.strerror or error}") from error


def sample_shapes_of(data: str | None) -> SampleShapes | None:
    """What the samples look like on which the models will be compared; None where there are none.

    A module that does not say what it takes is recorded on such. DataError or InputError where they cannot be read.
    """
    if data in {None, "random"}:
        return None
    from bnfold.check.datasets import sample_shapes
    from bnfold.data import load

    return sample_shapes(load(str(data)))


def verified(
    report: ConvertReport,
    conversion: Conversion,
    route: Route,
    opening: Opening,
    *,
    data: str,
    progress: Progress | None,
) -> ConvertReport:
    """The report with the comparison of both models; CheckFailedError where the folded one is not the same network."""
    from bnfold import comparison

    with _staged(conversion, route.target) as staged:
        verification = comparison.verify(route.path, staged, **opening, data=data, progress=progress)
    report = replace(report, verification=verification)
    if not verification.passed:
        raise CheckFailedError(
            "the folded model differs from the original", where=f"{route.target} was not written", report=report
        )
    return report


@contextmanager
def _staged(conversion: Conversion, target: Path) -> Iterator[Path]:
    """The output under a name of its own in a temporary folder, to run it before it is put in place."""
    with TemporaryDirectory(prefix="bnfold-") as folder:
        staged = Path(folder) / target.name
        put_files(conversion.contents(staged))
        yield staged
