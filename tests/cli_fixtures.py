"""The command line with an API of its own: what it was called with is kept, what it returns or raises is chosen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import sample_reports as sample

from bnfold.cli.entry import run
from bnfold.records import Report

Answer = Report | Exception | Callable[..., Report]


@dataclass
class Api:
    """``calls`` are (function, positional, keywords); ``answers`` are what the functions give."""

    calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = field(default_factory=list)
    answers: dict[str, Answer] = field(
        default_factory=lambda: {
            "inspect": sample.INSPECTION,
            "convert": sample.CONVERSION,
            "verify": sample.PASSED,
            "bench": sample.BENCHMARK,
        }
    )

    @property
    def options(self) -> dict[str, Any]:
        """The keywords of the only call, without the progress callback."""
        ((_, _, keywords),) = self.calls
        return {name: value for name, value in keywords.items() if name != "progress"}

    def answer(self, function: str, *positional: Any, **keywords: Any) -> Report:
        self.calls.append((function, positional, keywords))
        answer = self.answers[function]
        if isinstance(answer, Exception):
            raise answer
        return answer if isinstance(answer, Report) else answer(*positional, **keywords)


@dataclass(frozen=True)
class Outcome:
    """How a command line ended."""

    code: int
    out: str
    err: str


CommandLine = Callable[..., Outcome]


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Api:
    replaced = Api()
    for name in replaced.answers:

        def function(*positional: Any, name: str = name, **keywords: Any) -> Report:
            return replaced.answer(name, *positional, **keywords)

        monkeypatch.setattr(f"bnfold.api.{name}", function)
    return replaced


@pytest.fixture
def bnfold(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> CommandLine:
    """Runs a command line in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def command_line(*words: str) -> Outcome:
        code = run(words)
        return Outcome(code, *capsys.readouterr())

    return command_line
