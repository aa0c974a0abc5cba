from __future__ import annotations

import re
from pathlib import Path

import pytest

from bnfold.core.reason import Reason


def test_codes_and_slugs_are_unique() -> None:
    assert len({reason.code for reason in Reason}) == len(Reason)
    assert len({reason.slug for reason in Reason}) == len(Reason)


@pytest.mark.parametrize("reason", Reason, ids=lambda reason: reason.slug)
def test_every_reason_says_why_and_what_to_do(reason: Reason) -> None:
    assert re.fullmatch(r"BNF[123]\d\d", reason.code)
    assert reason.slug == reason.name.lower().replace("_", "-")
    for text in (reason.why, reason.remedy):
        assert text[0].isupper()
        assert text.endswith(".")
    assert not reason.title.endswith(".")


@pytest.mark.parametrize("reason", Reason, ids=str)
def test_every_reason_is_triggered_by_some_test(reason: Reason) -> None:
    tests = Path(__file__).parents[1]
    mentions = [
        path
        for path in tests.rglob("test_*.py")
        if path != Path(__file__) and f"Reason.{reason.name}" in path.read_text(encoding="utf-8")
    ]
    assert mentions
