from __future__ import annotations

import re
from pathlib import Path

import pytest

from sample_models import NETWORKS
from sample_models.document import page, pictures
from sample_models.figures import Chart, Curve, Figure, Figures

DOCS = Path(__file__).parents[2] / "docs"
PUBLISHED = [network.name for network in NETWORKS if network.published]
CURVE = Curve.of_many("with BN", [1, 2], [[0.1, 0.3], [0.3, 0.5]])
FIGURES = Figures(
    title="a network",
    rows=(Figure("with BN", "99.02 %", "98.90 %"),),
    notes=("How it was measured.",),
    charts=(Chart("accuracy", "step", "share", (CURVE,), log_x=True),),
)


def test_every_published_network_has_its_section_with_table_notes_and_curves() -> None:
    text = page(dict.fromkeys(PUBLISHED, FIGURES))

    assert re.findall(r"^## (.*)$", text, re.MULTILINE) == PUBLISHED
    assert text.count("| with BN | 99.02 % | 98.90 % |") == len(PUBLISHED)
    assert text.count("How it was measured.") == len(PUBLISHED)
    assert "![Curves of fcnet](networks/fcnet.svg)" in text
    assert "Trained with: Adam, 10 epochs at 0.01, batches of 32." in text
    assert "``" not in text.replace("```", "")


def test_page_that_is_committed_is_of_these_networks() -> None:
    text = (DOCS / "networks.md").read_text(encoding="utf-8")

    assert re.findall(r"^## (.*)$", text, re.MULTILINE) == PUBLISHED
    assert all((DOCS / picture).is_file() for picture in re.findall(r"\]\((networks/.*?)\)", text))


def test_same_figures_give_the_same_picture() -> None:
    pytest.importorskip("matplotlib")

    first, second = (pictures({"fcnet": FIGURES, "tinycnn": Figures("no curves", ())}) for _ in range(2))

    assert list(first) == ["fcnet.svg"]
    assert first == second
    assert b"<svg" in first["fcnet.svg"]


def test_figures_come_back_from_json_as_they_were() -> None:
    assert Figures.from_json(FIGURES.to_json()) == FIGURES


def test_curve_of_several_runs_is_their_mean_between_their_extremes() -> None:
    assert CURVE.y == pytest.approx((0.2, 0.4))
    assert (CURVE.low, CURVE.high) == ((0.1, 0.3), (0.3, 0.5))
