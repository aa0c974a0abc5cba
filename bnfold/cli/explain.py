"""``bnfold explain``."""

from __future__ import annotations

import difflib
import json
import sys
from typing import TYPE_CHECKING

import click

from bnfold.cli.options import debug_option, format_option
from bnfold.cli.streams import put_result
from bnfold.errors import UsageError

if TYPE_CHECKING:
    from bnfold.core.reason import Reason

_EXAMPLES = """\b
Examples:
  bnfold explain
  bnfold explain BNF202
  bnfold explain --format markdown > reasons.md
"""


@click.command("explain", epilog=_EXAMPLES)
@click.argument("code", required=False)
@format_option("text", "json", "markdown")
@debug_option
def command(*, code: str | None, form: str) -> int:
    """What the reason CODE means, why it is unsafe to fold then, and what to do.

    CODE is BNF202, 202 or fan-out, in any case. Without CODE: the table of all reasons.
    """
    from bnfold.core.reason import Reason

    put_result(_table_of(list(Reason), form) if code is None else _one(find_reason(code), form))
    return 0


def _table_of(reasons: list[Reason], form: str) -> str:
    from bnfold.render.page import laid_out, page_of
    from bnfold.render.reasons import reason_data, reason_table, reasons_markdown

    if form == "json":
        return json.dumps([reason_data(reason) for reason in reasons], indent=2) + "\n"
    if form == "markdown":
        return reasons_markdown(reasons)
    return laid_out(reason_table(reasons), page_of(sys.stdout))


def _one(reason: Reason, form: str) -> str:
    from bnfold.render.page import laid_out, page_of
    from bnfold.render.reasons import reason_blocks, reason_data, reason_markdown

    if form == "json":
        return json.dumps(reason_data(reason), indent=2) + "\n"
    if form == "markdown":
        return reason_markdown(reason)
    return laid_out(reason_blocks(reason), page_of(sys.stdout))


def find_reason(code: str) -> Reason:
    """The reason that ``code`` names. Raises UsageError with near names where there is none."""
    from bnfold.core.reason import Reason

    names: dict[str, Reason] = {}
    for reason in Reason:
        names |= {reason.code: reason, reason.code.removeprefix("BNF"): reason, reason.slug.upper(): reason}
    wanted = code.strip().upper().replace("_", "-")
    if wanted in names:
        return names[wanted]
    near = [names[name] for name in difflib.get_close_matches(wanted, names, n=3)]
    suggestions = " or ".join(dict.fromkeys(f"{reason.code} ({reason.slug})" for reason in near))
    raise UsageError(
        f"there is no reason '{code}'",
        remedy=f"did you mean {suggestions}?" if near else "bnfold explain lists them all",
    )
