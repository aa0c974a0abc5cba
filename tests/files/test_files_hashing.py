from __future__ import annotations

import hashlib
import io
from pathlib import Path

import pytest

from bnfold.errors import InputError
from bnfold.files.beside import Beside
from bnfold.files.hashing import HashingStream, file_record
from bnfold.records import ExternalRecord, FileRecord


def test_a_missing_file_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot read .*model\.onnx: No such file"):
        file_record(tmp_path / "model.onnx", "onnx")


def test_a_missing_external_file_is_named(tmp_path: Path) -> None:
    model = tmp_path / "model.onnx"
    model.write_bytes(b"model")
    with pytest.raises(InputError, match=r"cannot read .*model\.data"):
        file_record(model, "onnx", external=(tmp_path / "model.data",))


def test_a_large_file_is_hashed_whole(tmp_path: Path) -> None:
    content = bytes(range(256)) * 12_345
    model = tmp_path / "model.onnx"
    model.write_bytes(content)
    assert file_record(model, "onnx") == FileRecord(
        path=str(model), format="onnx", sha256=hashlib.sha256(content).hexdigest(), bytes=len(content)
    )


def test_external_data_is_listed_with_its_size(tmp_path: Path) -> None:
    model, data = tmp_path / "model.onnx", tmp_path / "model.data"
    model.write_bytes(b"model")
    data.write_bytes(b"weights")
    assert file_record(model, "onnx", external=(data,)).external == (ExternalRecord(str(data), 7),)


@pytest.mark.parametrize(
    "pieces", [[], [b"a"], [b"ab", memoryview(b"cd")], [b"small", b"large" * 400_000, b"end"]], ids=len
)
def test_what_is_written_is_hashed(pieces: list[bytes | memoryview]) -> None:
    written = io.BytesIO()
    stream = HashingStream(written)
    for piece in pieces:
        stream.write(piece)
    content = b"".join(pieces)
    assert written.getvalue() == content
    assert stream.record(Path("out.onnx"), "onnx") == FileRecord(
        path="out.onnx", format="onnx", sha256=hashlib.sha256(content).hexdigest(), bytes=len(content)
    )


def test_an_error_beside_the_work_is_raised_where_the_result_is_asked_for() -> None:
    hashing = Beside(lambda: file_record(Path("nowhere/model.onnx"), "onnx"))
    with pytest.raises(InputError, match="cannot read"):
        hashing.result()
