"""What ``explain`` says about the reasons for keeping a batch norm."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from bnfold.render.page import Block, Column, Styled, Table

if TYPE_CHECKING:
    from bnfold.core.reason import Reason


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
    columns = (Column("code"), Column("name"), Column("what it means", cut=True))
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
