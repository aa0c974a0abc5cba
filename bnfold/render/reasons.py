"""What ``explain`` says about the reasons for keeping a batch norm; as Markdown it is ``docs/reasons.md``."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from bnfold.render.markdown import PARAGRAPH, markdown_table, plain
from bnfold.render.page import Block, Column, Styled, Table

if TYPE_CHECKING:
    from bnfold.core.reason import Reason


_PAGE_HEAD: Final = """\
<!-- Made by `bnfold explain --format markdown` from bnfold/core/reason.py. -->

# Why a batch norm stays

Every batch norm that bnfold keeps is reported with one of these reasons. 1xx is about the batch norm itself, 2xx about
its neighbourhood, 3xx about the effect of folding it. Codes are never reused. `bnfold explain CODE` says the same."""


def reason_blocks(reason: Reason) -> list[Block]:
    """One reason: what it means, why folding would be unsafe, what to do."""
    return [
        Styled(f"{reason.code} {reason.slug}: {reason.title}", "bold"),
        "",
        f"Why: {reason.why}",
        f"What to do: {reason.remedy}",
    ]


def reason_table(reasons: Iterable[Reason]) -> list[Block]:
    """All of them, a line each."""
    columns = (Column("code"), Column("name"), Column("what it means", wraps=True))
    table = Table(columns, [(reason.code, reason.slug, reason.title) for reason in reasons])
    return [table, "", "bnfold explain CODE says why it is unsafe to fold then, and what to do."]


def reason_data(reason: Reason) -> dict[str, str]:
    """One reason, ready for JSON."""
    return {
        "code": reason.code,
        "slug": reason.slug,
        "title": reason.title,
        "why": reason.why,
        "remedy": reason.remedy,
    }


def reason_markdown(reason: Reason) -> str:
    """One reason as Markdown."""
    return _section(reason) + "\n"


def reasons_markdown(reasons: Iterable[Reason]) -> str:
    """All of them as a page: a table, then each with why and what to do."""
    listed = list(reasons)
    columns = (Column("code"), Column("name"), Column("what it means"))
    rows = [(f"[{item.code}](#{item.code.lower()}-{item.slug})", item.slug, plain(item.title)) for item in listed]
    return PARAGRAPH.join([_PAGE_HEAD, markdown_table(columns, rows), *map(_section, listed)]) + "\n"


def _section(reason: Reason) -> str:
    meaning = f"**{plain(reason.title[:1].upper() + reason.title[1:])}.** {plain(reason.why)}"
    return PARAGRAPH.join([f"## {reason.code} {reason.slug}", meaning, f"What to do: {plain(reason.remedy)}"])
