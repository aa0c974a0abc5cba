from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from onnx_resnet import SIZES, Size, resnet

import bnfold

SMALL = SIZES["small"]


def batch_norms(proto: onnx.ModelProto) -> int:
    return sum(node.op_type == "BatchNormalization" for node in proto.graph.node)


def test_the_small_model_is_valid_and_of_the_size_it_is_named_for() -> None:
    proto = resnet(SMALL)
    onnx.checker.check_model(proto, full_check=True)
    assert 95_000 < proto.ByteSize() < 105_000
    assert batch_norms(proto) == 17


def test_every_batch_norm_folds_and_the_network_is_the_same(tmp_path: Path) -> None:
    source, folded = tmp_path / "small.onnx", tmp_path / "folded.onnx"
    onnx.save(resnet(SMALL), source)
    report = bnfold.convert(source, folded, verify="random")
    assert (report.found, report.folded) == (17, 17)
    assert report.verification is not None
    assert report.verification.passed
    assert batch_norms(onnx.load(folded)) == 0


def test_the_statistics_are_far_from_the_identity() -> None:
    plan = bnfold.fold(resnet(SMALL)).plan
    for fold in plan.folds:
        low, high = fold.affine.scale_range
        assert high / low > 1.5
        assert abs(fold.affine.shift).max() > 0.1


def test_the_same_size_gives_the_same_bytes() -> None:
    assert resnet(SMALL).SerializeToString() == resnet(SMALL).SerializeToString()


@pytest.mark.parametrize(("blocks", "expected"), [((1, 1, 1, 1), 17), ((3, 4, 6, 3), 53)], ids=str)
def test_resnet_50_has_53_batch_norms(blocks: tuple[int, ...], expected: int) -> None:
    assert batch_norms(resnet(Size(blocks, width=2, classes=2, image=32))) == expected
