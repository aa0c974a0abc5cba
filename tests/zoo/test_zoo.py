"""Networks of the transformers library fold, and stay the same networks; the document says how many batch norms go."""

from __future__ import annotations

from pathlib import Path

import pytest
from zoo_models import NETWORKS, Network, measured, row

pytestmark = [
    pytest.mark.zoo,
    pytest.mark.filterwarnings("default"),  # what transformers and its parts deprecate is not ours to mend
]

DOCUMENT = Path(__file__).parents[2] / "docs" / "coverage.md"
TOLERANCE = 1e-5
"""What a comparison of float32 networks allows."""


@pytest.mark.parametrize("network", NETWORKS, ids=lambda network: network.name)
def test_a_network_of_the_library_folds_as_the_document_says(network: Network) -> None:
    found, plan = measured(network)
    assert found.error <= TOLERANCE
    assert found.found == len(plan)
    assert row(network, found) in DOCUMENT.read_text(encoding="utf-8").splitlines(), "run zoo_models.py for the table"
