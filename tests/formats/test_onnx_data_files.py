"""Models whose large tensors lie in a file beside them: what is written, and that it is both files or neither."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto
from onnx_graphs import BN, assert_same_network, model, parameters, weight

import bnfold
from bnfold.cli.entry import run
from bnfold.core import rounding
from bnfold.errors import CheckFailedError, InputError, OutputError, UsageError
from bnfold.files import hashing
from bnfold.formats.onnx import references, writing
from bnfold.formats.onnx.tensors import NewTensor

TENSORS = {"w": weight(40, 3, 5, 5), "k": weight(40), **parameters(40)}
BODY = f"c = Conv (x, w, k) y = BatchNormalization (c, {BN})"
KEPT = "h = Conv (x, w, k) y = Relu (h)"
LIMIT = 10_000
"""Bytes; as much as is allowed in one file here, where nobody wants to write 2 GB."""


def saved(folder: Path, body: str = BODY, *, location: str = "weights.bin", name: str = "model.onnx") -> Path:
    """A model all of whose tensors are external."""
    used = {key: values for key, values in TENSORS.items() if body != KEPT or key in "wk"}
    (folder / location).parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model(body, used), folder / name, save_as_external_data=True, location=location, size_threshold=0)
    return folder / name


def alone(folder: Path, proto: ModelProto) -> Path:
    path = folder / "model.onnx"
    path.write_bytes(proto.SerializeToString())
    return path


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def places(path: Path) -> dict[str, dict[str, str]]:
    """Where the external tensors of a model lie, by name."""
    initializers = onnx.load(path, load_external_data=False).graph.initializer
    return {
        tensor.name: {entry.key: entry.value for entry in tensor.external_data}
        for tensor in initializers
        if tensor.data_location == TensorProto.EXTERNAL
    }


# Refusals


def test_existing_data_are_not_replaced_without_force(tmp_path: Path) -> None:
    path = saved(tmp_path)
    (tmp_path / "out.data").write_bytes(b"somebody's")
    before = files(tmp_path)
    with pytest.raises(OutputError, match=r"out\.data exists already"):
        bnfold.convert(path, tmp_path / "out.onnx")
    with pytest.raises(OutputError, match=r"out\.data exists already"):
        bnfold.convert(path, tmp_path / "out.onnx", verify="no such data are looked for yet")
    assert files(tmp_path) == before


def test_the_external_data_of_the_source_are_never_written_over(tmp_path: Path) -> None:
    path = saved(tmp_path, location="out.data")
    before = files(tmp_path)
    with pytest.raises(OutputError, match=r"out\.data is the input"):
        bnfold.convert(path, tmp_path / "out.onnx", force=True)
    assert files(tmp_path) == before


def test_a_copy_that_would_be_its_own_data_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "home", KEPT)
    (tmp_path / "away").mkdir()
    with pytest.raises(UsageError, match="is the name of the model's external data"):
        bnfold.convert(path, tmp_path / "away" / "weights.bin")


def test_a_model_that_passes_the_limit_without_its_large_tensors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    constant = onnx.helper.make_node("Constant", [], ["u"], value=onnx.numpy_helper.from_array(weight(LIMIT)))
    proto = model(BODY, TENSORS)
    proto.graph.node.insert(0, constant)
    monkeypatch.setattr(writing, "PROTOBUF_LIMIT_BYTES", LIMIT)
    with pytest.raises(InputError, match="passes 2 GB"):
        bnfold.convert(alone(tmp_path, proto), tmp_path / "out.onnx")
    assert list(files(tmp_path)) == ["model.onnx"]


@pytest.mark.skipif(os.name == "nt", reason="names are text there")
def test_a_name_that_a_model_cannot_refer_to(tmp_path: Path) -> None:
    path = saved(tmp_path)
    with pytest.raises(UsageError, match="choose another name"):
        bnfold.convert(path, Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff\xe4.onnx")))


def fail_while_computing(patch: pytest.MonkeyPatch) -> None:
    def fail(_: NewTensor) -> Iterator[memoryview]:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    patch.setattr(NewTensor, "pieces", fail)


def fail_to_flush_the_second(patch: pytest.MonkeyPatch) -> None:
    flush, flushed = os.fsync, []

    def fail(descriptor: int) -> None:
        flushed.append(descriptor)
        if len(flushed) > 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        flush(descriptor)

    patch.setattr(os, "fsync", fail)


def fail_to_rename_the_second(patch: pytest.MonkeyPatch) -> None:
    replace, replaced = Path.replace, []

    def fail(self: Path, target: Path) -> Path:
        replaced.append(target)
        if len(replaced) == 2:
            raise OSError(errno.EACCES, os.strerror(errno.EACCES))
        return replace(self, target)

    patch.setattr(Path, "replace", fail)


def interrupt(patch: pytest.MonkeyPatch) -> None:
    def fail(_: int) -> None:
        raise KeyboardInterrupt

    patch.setattr(os, "fsync", fail)


@pytest.mark.parametrize(
    "break_it", [fail_while_computing, fail_to_flush_the_second, fail_to_rename_the_second, interrupt]
)
@pytest.mark.parametrize("older", [{}, {"out.onnx": b"a model", "out.data": b"and its data"}], ids=["new", "replaced"])
def test_both_files_are_in_place_or_neither(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    break_it: Callable[[pytest.MonkeyPatch], None],
    older: dict[str, bytes],
) -> None:
    path = saved(tmp_path)
    for name, content in older.items():
        (tmp_path / name).write_bytes(content)
    before = files(tmp_path)
    break_it(monkeypatch)
    with pytest.raises((OutputError, KeyboardInterrupt)):
        bnfold.convert(path, tmp_path / "out.onnx", force=True)
    monkeypatch.undo()
    assert files(tmp_path) == before


# What is written


def test_external_data_come_out_beside_the_model(tmp_path: Path) -> None:
    path = saved(tmp_path)
    before = files(tmp_path)
    report = bnfold.convert(path, tmp_path / "out.onnx", verify="random")
    assert report.verification is not None
    assert report.verification.passed
    assert_same_network(onnx.load(path), onnx.load(tmp_path / "out.onnx"))
    assert set(files(tmp_path)) == {*before, "out.onnx", "out.data"}
    assert {name: content for name, content in files(tmp_path).items() if name in before} == before
    assert {place["location"] for place in places(tmp_path / "out.onnx").values()} == {"out.data"}
    assert report.output is not None
    assert [(Path(item.path).name, item.bytes) for item in report.output.external] == [
        ("out.data", (tmp_path / "out.data").stat().st_size)
    ]


def test_a_model_too_large_for_one_file_becomes_two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = alone(tmp_path, model(BODY, TENSORS))
    monkeypatch.setattr(writing, "PROTOBUF_LIMIT_BYTES", LIMIT)
    report = bnfold.convert(path, tmp_path / "out.onnx", verify="random")
    assert report.verification is not None
    assert report.verification.passed
    assert set(files(tmp_path)) == {"model.onnx", "out.onnx", "out.data"}
    assert_same_network(onnx.load(path), onnx.load(tmp_path / "out.onnx"))


def test_a_model_that_is_one_file_stays_one(tmp_path: Path) -> None:
    bnfold.convert(alone(tmp_path, model(BODY, TENSORS)), tmp_path / "out.onnx")
    assert set(files(tmp_path)) == {"model.onnx", "out.onnx"}


def test_what_shape_inference_reads_stays_in_the_model(tmp_path: Path) -> None:
    body = f"c = Conv (x, w, k) n = BatchNormalization (c, {BN}) y = Reshape (n, s)"
    proto = model(body, {**TENSORS, "s": np.array([0, 5, -1], np.int64)})
    onnx.save(proto, tmp_path / "model.onnx", save_as_external_data=True, size_threshold=0)
    bnfold.convert(tmp_path / "model.onnx", tmp_path / "out.onnx")
    assert set(places(tmp_path / "out.onnx")) == {"w_folded", "k_folded"}


def test_tensors_of_a_page_and_more_begin_at_pages(tmp_path: Path) -> None:
    body = f"a = Conv (x, u) c = Conv (a, w, k) y = BatchNormalization (c, {BN})"
    proto = model(body, {**TENSORS, "u": weight(32, 3, 3, 3), "w": weight(40, 32, 3, 3)})
    onnx.save(proto, tmp_path / "model.onnx", save_as_external_data=True)
    bnfold.convert(tmp_path / "model.onnx", tmp_path / "out.onnx")
    offsets = {name: int(place["offset"]) for name, place in places(tmp_path / "out.onnx").items()}
    assert offsets.keys() == {"u", "w_folded", "k_folded"}
    assert (offsets["u"], offsets["w_folded"] % writing.PAGE_BYTES, offsets["k_folded"] % 64) == (0, 0, 0)


def test_the_same_model_gives_the_same_files(tmp_path: Path) -> None:
    path = saved(tmp_path)
    bnfold.convert(path, tmp_path / "out.onnx")
    before = files(tmp_path)
    bnfold.convert(path, tmp_path / "out.onnx", force=True)
    assert files(tmp_path) == before


@pytest.mark.parametrize("apart", [False, True], ids=["in one file", "with external data"])
def test_in_small_pieces_and_beside_one_another_the_same_is_written(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    apart: bool,  # noqa: FBT001 - a parameter
) -> None:
    body = f"a = Conv (x, u) c = Conv (a, w, k) y = BatchNormalization (c, {BN})"
    proto = model(body, {**TENSORS, "u": weight(32, 3, 3, 3), "w": weight(40, 32, 3, 3)})
    onnx.save(proto, tmp_path / "model.onnx", save_as_external_data=apart, location="model.data")
    bnfold.convert(tmp_path / "model.onnx", tmp_path / "out.onnx", verify="random")
    whole = files(tmp_path)
    monkeypatch.setattr(rounding, "PIECE_BYTES", 1000)
    monkeypatch.setattr(references, "PIECE_BYTES", 500)
    monkeypatch.setattr(references, "MAPPED_BYTES", 700)
    monkeypatch.setattr(hashing, "_WORTH_A_THREAD", 0)
    report = bnfold.convert(tmp_path / "model.onnx", tmp_path / "out.onnx", force=True)
    assert files(tmp_path) == whole
    assert report.output is not None
    assert report.output.sha256 == hashlib.sha256(whole["out.onnx"]).hexdigest()


def test_what_was_written_can_be_read_and_folds_no_further(tmp_path: Path) -> None:
    bnfold.convert(saved(tmp_path), tmp_path / "out.onnx")
    assert bnfold.inspect(tmp_path / "out.onnx").found == 0


# Nothing to fold: copies


def test_where_nothing_folds_both_files_are_copied(tmp_path: Path) -> None:
    path = saved(tmp_path / "home", KEPT, location="data/weights.bin")
    (tmp_path / "away").mkdir()
    report = bnfold.convert(path, tmp_path / "away" / "out.onnx", verify="random")
    copies = files(tmp_path / "away")
    assert copies == {
        "out.onnx": path.read_bytes(),
        str(Path("data", "weights.bin")): (tmp_path / "home" / "data" / "weights.bin").read_bytes(),
    }
    assert report.output is not None
    assert [Path(item.path).name for item in report.output.external] == ["weights.bin"]
    assert report.output.sha256 == report.source.sha256


def test_a_copy_in_the_same_folder_reads_the_same_data(tmp_path: Path) -> None:
    path = saved(tmp_path, KEPT)
    report = bnfold.convert(path, tmp_path / "out.onnx", verify="random")
    assert set(files(tmp_path)) == {"model.onnx", "weights.bin", "out.onnx"}
    assert report.output is not None
    assert report.output.external == report.source.external
    assert (tmp_path / "out.onnx").read_bytes() == path.read_bytes()


def test_a_copy_does_not_replace_other_data_without_force(tmp_path: Path) -> None:
    path = saved(tmp_path / "home", KEPT)
    (tmp_path / "away").mkdir()
    (tmp_path / "away" / "weights.bin").write_bytes(b"somebody's")
    with pytest.raises(OutputError, match=r"weights\.bin exists already"):
        bnfold.convert(path, tmp_path / "away" / "out.onnx")
    assert files(tmp_path / "away") == {"weights.bin": b"somebody's"}
    bnfold.convert(path, tmp_path / "away" / "out.onnx", force=True)
    assert_same_network(onnx.load(path), onnx.load(tmp_path / "away" / "out.onnx"))


# --check and --dry-run


def spoil_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def add_a_byte(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0")


def remove(path: Path) -> None:
    path.unlink()


@pytest.mark.parametrize("body", [BODY, KEPT], ids=["folded", "copied"])
@pytest.mark.parametrize("change", [spoil_a_byte, add_a_byte, remove])
@pytest.mark.parametrize("suffix", [".onnx", ""])
def test_check_looks_at_both_files(tmp_path: Path, body: str, change: Callable[[Path], Any], suffix: str) -> None:
    path = saved(tmp_path / "home", body)
    (tmp_path / "away").mkdir()
    out = tmp_path / "away" / "out.onnx"
    bnfold.convert(path, out)
    bnfold.convert(path, out, check=True)
    data = next(item for item in out.parent.iterdir() if item != out)
    change(out if suffix else data)
    with pytest.raises(CheckFailedError, match=r"is not what would be written|does not exist"):
        bnfold.convert(path, out, check=True)


def test_a_dry_run_writes_neither(tmp_path: Path) -> None:
    path = saved(tmp_path)
    before = files(tmp_path)
    assert bnfold.convert(path, tmp_path / "out.onnx", dry_run=True).output is None
    assert files(tmp_path) == before


def test_the_last_line_names_both_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = saved(tmp_path)
    assert run(["convert", str(path), "-o", str(tmp_path / "out.onnx")]) == 0
    assert f"wrote {tmp_path / 'out.onnx'} with out.data (" in capsys.readouterr().out.splitlines()[-1]


# The layout of the Hugging Face cache


def test_model_and_data_may_both_be_links_into_one_folder(tmp_path: Path) -> None:
    snapshot, blobs = tmp_path / "snapshots" / "abc", tmp_path / "blobs"
    path = saved(tmp_path / "plain")
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for name, blob in (("model.onnx", "1f"), ("weights.bin", "2e")):
        (tmp_path / "plain" / name).rename(blobs / blob)
        (snapshot / name).symlink_to(Path("..", "..", "blobs", blob))
    before = files(blobs)
    report = bnfold.convert(snapshot / path.name, verify="random")
    assert report.verification is not None
    assert report.verification.passed
    assert [Path(item.path).name for item in report.verification.source.external] == ["weights.bin"]
    assert sorted(item.name for item in snapshot.iterdir() if not item.is_symlink()) == [
        "model.folded.data",
        "model.folded.onnx",
    ]
    assert files(blobs) == before
    assert bnfold.bench(snapshot / path.name, snapshot / "model.folded.onnx", batch=[1], min_seconds=0).cases
