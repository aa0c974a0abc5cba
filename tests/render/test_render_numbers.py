from __future__ import annotations

import pytest

from bnfold.render import numbers


@pytest.mark.parametrize(
    ("count", "shown"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (62_600_000, "62.6 MB"),
        (999_950, "1.0 MB"),
        (3 * 10**12, "3.0 TB"),
    ],
)
def test_size(count: int, shown: str) -> None:
    assert numbers.size(count) == shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.0, "0"), (2.44e-7, "2.4e-07"), (1.0, "1.0e+00"), (float("inf"), "inf"), (float("nan"), "nan")],
)
def test_error(value: float, shown: str) -> None:
    assert numbers.error(value) == shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.0, "0"), (0.03124, "0.0312"), (0.512, "0.512"), (48.12, "48.1"), (1250.4, "1250"), (float("inf"), "inf")],
)
def test_milliseconds(value: float, shown: str) -> None:
    assert numbers.milliseconds(value) == shown


@pytest.mark.parametrize(("count", "shown"), [(0, "0 flips"), (1, "1 flip"), (10_000, "10,000 flips")])
def test_counted(count: int, shown: str) -> None:
    assert numbers.counted(count, "flip") == shown


def test_percent() -> None:
    assert numbers.percent(0.98921) == "98.92 %"
