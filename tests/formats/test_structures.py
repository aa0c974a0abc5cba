"""Structures of real networks, by both of torch's ONNX exporters: what folds, what stays and why; nothing changes."""

from __future__ import annotations

from pathlib import Path

import pytest
from onnx_graphs import assert_same_network, assert_scale_matters, folded
from structure_exports import EXPORTERS, Tally, exported, row, tally
from structures import STRUCTURES, Structure

from bnfold import fold

DOCUMENT = Path(__file__).parents[2] / "docs" / "coverage.md"

EXPECTED = {
    "ResNet basic block with downsample": Tally({"absorb-above": 3}, {}),
    "pre-activation residual blocks": Tally({"absorb-above": 2}, {"fan-out": 2}),
    "DenseNet block and transition": Tally({"absorb-above": 4}, {"fan-out": 3}),
    "RepVGG block, three branches": Tally({"absorb-above": 3, "parallel-layers": 1}, {}),
    "MobileOne blocks": Tally({"absorb-above": 12, "parallel-layers": 2}, {}),
    "RepGhost module": Tally({"absorb-above": 3, "parallel-layers": 1}, {}),
    "RepViT block": Tally({"absorb-above": 3}, {}),
    "FastViT mixer": Tally({"absorb-above": 3, "parallel-layers": 2}, {}),
    "inverted residual (MobileNetV2)": Tally({"absorb-above": 4}, {}),
    "ConvMixer": Tally({"absorb-below": 1}, {"no-linear-layer": 1, "padded-input": 1}),
    "squeeze-and-excitation": Tally({"absorb-above": 3, "absorb-below": 1}, {}),
    "MixConv": Tally({"absorb-above": 3}, {}),
    "U-Net with ConvTranspose and interpolation": Tally({"absorb-above": 4, "absorb-below": 1}, {}),
    "LeViT": Tally({"absorb-above": 5, "absorb-below": 1}, {}),
    "tokens transposed, or flattened, for the batch norm": Tally({"absorb-above": 2, "absorb-below": 1}, {}),
    "groups shuffled (ShuffleNet)": Tally({"absorb-above": 3}, {}),
    "1-D audio": Tally({"absorb-above": 2, "absorb-below": 2}, {}),
    "3-D": Tally({"absorb-above": 4}, {}),
    "MLP": Tally({"absorb-above": 2, "absorb-below": 2}, {}),
}
"""By structure, whichever exporter wrote the model."""

MODELS = [
    pytest.param(structure, exporter, id=f"{structure.name}, {exporter}")
    for structure in STRUCTURES
    for exporter in EXPORTERS
]


@pytest.mark.parametrize(("structure", "exporter"), MODELS)
def test_each_batch_norm_of_a_structure_gets_the_expected_verdict(structure: Structure, exporter: str) -> None:
    assert tally(fold(exported(structure, exporter)).plan) == EXPECTED[structure.name]


@pytest.mark.parametrize(("structure", "exporter"), MODELS)
def test_a_folded_structure_is_the_same_network_with_only_the_kept_batch_norms(
    structure: Structure, exporter: str
) -> None:
    original = exported(structure, exporter)
    result, _ = folded(original)
    kept = [node for node in result.graph.node if node.op_type == "BatchNormalization"]
    assert len(kept) == sum(EXPECTED[structure.name].kept.values())
    assert_same_network(original, result)
    again = fold(result)
    assert len(again.plan) == len(kept)
    assert again.model.SerializeToString(deterministic=True) == result.SerializeToString(deterministic=True)


CONVOLUTIONS = {"RepVGG block, three branches": 2, "MobileOne blocks": 4, "RepGhost module": 3, "RepViT block": 2}
"""Structures whose blocks have branches: the stem, and one convolution a block."""


@pytest.mark.parametrize("exporter", EXPORTERS)
@pytest.mark.parametrize(
    "structure", [pytest.param(item, id=item.name) for item in STRUCTURES if item.name in CONVOLUTIONS]
)
def test_a_block_of_branches_becomes_one_convolution(structure: Structure, exporter: str) -> None:
    result = fold(exported(structure, exporter)).model
    operators = [node.op_type for node in result.graph.node]
    assert operators.count("Conv") == CONVOLUTIONS[structure.name]
    assert not {"Add", "Sum", "BatchNormalization"} & set(operators)


@pytest.mark.parametrize(("structure", "exporter"), MODELS)
def test_the_output_of_a_structure_moves_with_the_scale_of_every_batch_norm(
    structure: Structure, exporter: str
) -> None:
    original = exported(structure, exporter)
    scales = [node.input[1] for node in original.graph.node if node.op_type == "BatchNormalization"]
    assert scales
    for scale in scales:
        assert_scale_matters(original, scale)


def test_the_document_shows_what_is_measured() -> None:
    rows = [row(structure, by, EXPECTED[structure.name]) for structure in STRUCTURES for by in EXPORTERS]
    lines = DOCUMENT.read_text(encoding="utf-8").splitlines()
    shown = [line for line in lines if not set(EXPORTERS).isdisjoint(line.split(" | "))]
    assert shown == rows, "python tests/formats/structure_exports.py prints the table as measured"
