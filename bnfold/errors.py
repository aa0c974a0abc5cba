"""What can go wrong, as exceptions: each carries its exit code, and says what, where and how to fix it.

The exit codes are fixed; pipelines test them. No other module chooses one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from bnfold.records import Report


class BnfoldError(Exception):
    """An error with a message for people: at most three lines (what, where, how to fix it).

    ``report`` holds what had been found out when the work stopped, where there is something worth showing.
    """

    exit_code: ClassVar[int] = 70

    def __init__(self, what: str, *, where: str = "", remedy: str = "", report: Report | None = None) -> None:
        self.what = what
        self.where = where
        self.remedy = remedy
        self.report = report
        super().__init__("\n".join(line for line in (what, where, remedy) if line))


class CheckFailedError(BnfoldError):
    """The models differ, the output is not what would be written, or the folded model is slower."""

    exit_code = 1


class UsageError(BnfoldError):
    """A wrong or missing option or argument."""

    exit_code = 2


class InputError(BnfoldError):
    """An input that is missing, unreadable, corrupt or of a kind that bnfold does not read."""

    exit_code = 3


class UnsafeError(BnfoldError):
    """Refused for safety: loading would run code, leave the model's folder or pass a limit."""

    exit_code = 4


class RequirementError(BnfoldError):
    """``--require-fold`` is not met."""

    exit_code = 5


class OutputError(BnfoldError):
    """The output was not written; what was there before is intact."""

    exit_code = 6


class DataError(BnfoldError):
    """The named data set is missing, malformed or has another hash."""

    exit_code = 7


class LimitError(BnfoldError):
    """A limit of the machine's was hit: its memory."""

    exit_code = 8


class InternalError(BnfoldError):
    """A bug of bnfold's own, found by its own checks."""

    exit_code = 70
