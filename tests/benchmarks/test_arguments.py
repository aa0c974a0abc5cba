from __future__ import annotations

from importlib import import_module

import pytest

PROGRAMS = ("branches", "convert", "coverage", "latency", "onnx_resnet", "scale", "startup", "torch_fold")


@pytest.mark.parametrize("name", PROGRAMS)
def test_help_says_what_is_measured_and_measures_nothing(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    program = import_module(name)
    monkeypatch.setattr("sys.argv", [f"{name}.py", "--help"])
    with pytest.raises(SystemExit) as ended:
        program.main()
    assert ended.value.code == 0
    assert str(program.__doc__).splitlines()[0] in capsys.readouterr().out


UNKNOWN = {
    **{name: ["3"] for name in ("branches", "coverage", "latency", "startup")},
    "convert": ["many"],
    "onnx_resnet": ["huge", "out.onnx"],
    "scale": ["huge"],
    "torch_fold": ["--fold"],
}


@pytest.mark.parametrize(("name", "words"), UNKNOWN.items(), ids=UNKNOWN)
def test_what_a_benchmark_does_not_know_is_refused(
    name: str, words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", [f"{name}.py", *words])
    with pytest.raises(SystemExit) as ended:
        import_module(name).main()
    assert ended.value.code == 2
    assert words[0] in capsys.readouterr().err


@pytest.mark.parametrize("runs", ["0", "-1", "2.5"])
def test_a_number_of_runs_is_one_at_least(
    runs: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["convert.py", runs])
    with pytest.raises(SystemExit) as ended:
        import_module("convert").main()
    assert ended.value.code == 2
    assert "usage: convert.py" in capsys.readouterr().err
