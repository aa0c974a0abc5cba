from __future__ import annotations

from pathlib import Path

import onnx
from branches import files
from networks import RepVGG, shaken


def test_one_file_keeps_the_branches_and_one_has_a_layer_a_block(tmp_path: Path) -> None:
    written = files(shaken(RepVGG((1, 2), (4, 6))), (3, 16, 16), tmp_path)
    operators = [[node.op_type for node in onnx.load(path).graph.node] for path in written]
    assert [found.count("Conv") for found in operators] == [6, 6, 3]
    assert [found.count("BatchNormalization") for found in operators] == [7, 1, 0]
