from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from bnfold.files import flushing
from bnfold.files.flushing import FlushingFile


@pytest.fixture(autouse=True)
def _pieces_of_four_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flushing, "_PIECE_BYTES", 4)


def test_what_was_written_is_flushed_before_the_file_is_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flushed: list[int] = []
    monkeypatch.setattr("os.fsync", lambda descriptor: flushed.append(os.fstat(descriptor).st_size))
    with FlushingFile(tmp_path / "model.onnx") as stream:
        for piece in (b"12", b"34", b"5"):
            stream.write(piece)
            stream.flush()
    assert flushed in ([4], [5])  # the thread may see the next piece already
    assert (tmp_path / "model.onnx").read_bytes() == b"12345"


def test_writing_goes_on_during_a_flush_and_closing_waits_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written, done = threading.Event(), threading.Event()

    def slow(_descriptor: int) -> None:
        assert written.wait(timeout=60)
        done.set()

    monkeypatch.setattr("os.fsync", slow)
    with FlushingFile(tmp_path / "model.onnx") as stream:
        for piece in (b"1234", b"5678"):
            stream.write(piece)
            stream.flush()
        assert not done.is_set()
        written.set()
    assert done.is_set()


def test_a_flush_that_failed_fails_the_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(_descriptor: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("os.fsync", lost)
    stream = FlushingFile(tmp_path / "model.onnx")
    stream.write(b"12345678")
    with pytest.raises(OSError, match="Input/output error"):
        stream.close()
    assert stream.closed


def test_an_existing_file_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"mine")
    with pytest.raises(FileExistsError):
        FlushingFile(tmp_path / "model.onnx")
    assert (tmp_path / "model.onnx").read_bytes() == b"mine"
