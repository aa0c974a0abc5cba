from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from onnx import ModelProto
from scale import convert, plain, residual, row, write_large

import bnfold


@pytest.mark.parametrize("build", [plain, residual, row])
def test_every_tiny_batch_norm_folds(tmp_path: Path, build: Callable[[int], ModelProto]) -> None:
    onnx.checker.check_model(build(5), full_check=True)
    (tmp_path / "model.onnx").write_bytes(build(5).SerializeToString())
    report = bnfold.convert(tmp_path / "model.onnx", tmp_path / "out.onnx", verify="random")
    assert (report.found, report.folded) == (5, 5)
    assert report.verification is not None
    assert report.verification.passed


def test_large_weights_lie_beside_the_model_before_and_after(tmp_path: Path) -> None:
    source, output = tmp_path / "large.onnx", tmp_path / "out.onnx"
    write_large(source, layers=3, channels=32)
    assert convert(source, output).peak_bytes > 0
    assert {path.name for path in tmp_path.iterdir()} == {"large.onnx", "large.data", "out.onnx", "out.data"}
    assert (tmp_path / "out.data").stat().st_size >= 3 * 4 * 32**2
    assert bnfold.verify(source, output).passed
    assert bnfold.inspect(source).folded == 3
