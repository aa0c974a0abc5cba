"""The Python of docs/checkpoints.md runs, and prints what the page says."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "checkpoints.md").read_text(encoding="utf-8")


def test_what_is_loaded_and_what_is_refused_in_torchs_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (source,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    (printed,) = re.findall(r"```text\n(.*?)```", PAGE, re.DOTALL)
    shutil.copytree(ROOT / "sample_models", tmp_path / "sample_models")
    monkeypatch.chdir(tmp_path)
    exec(compile(source, "checkpoints.md", "exec"), {})  # noqa: S102 - our own page
    out = capsys.readouterr().out
    assert all(line.partition("…")[0].rstrip() in out for line in printed.splitlines())


def test_the_keys_are_those_that_are_tried_and_in_their_order() -> None:
    from bnfold.formats.torch.entries import KEYS

    listed = PAGE.partition("looked for under")[2].partition("in this order")[0]
    assert re.findall(r"`(\w+)`", listed) == list(KEYS)
