from __future__ import annotations

import re
from pathlib import Path

from bnfold.core.reason import Reason
from bnfold.render.reasons import reason_markdown, reasons_markdown

PAGE = Path(__file__).parent.parent.parent / "docs" / "reasons.md"


def test_the_page_of_reasons_is_the_one_made_from_the_code() -> None:
    # bnfold explain --format markdown > docs/reasons.md
    assert PAGE.read_text(encoding="utf-8") == reasons_markdown(Reason)


def test_every_link_of_the_table_leads_to_a_section() -> None:
    page = reasons_markdown(Reason)
    links = re.findall(r"\]\(#([^)]*)\)", page)
    headings = [line.removeprefix("## ").lower().replace(" ", "-") for line in page.splitlines() if line[:3] == "## "]
    assert links == headings
    assert len(links) == len(Reason)


def test_one_reason_is_its_section_of_the_page() -> None:
    assert reason_markdown(Reason.FAN_OUT) in reasons_markdown(Reason)
