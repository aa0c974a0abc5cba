from __future__ import annotations

import gzip
import io
import os
import pickle
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from bnfold.errors import InputError
from bnfold.files.recognise import HEAD_BYTES, MODELS, Kind, recognise, require_model

LFS_POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"


def onnx_model() -> onnx.ModelProto:
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])
    return helper.make_model(helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "graph", [value], [out]))


def zipped(*names: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in names:
            archive.writestr(name, "content")
    return buffer.getvalue()


def with_damaged_directory() -> bytes:
    """A checkpoint in whose directory a name is marked as UTF-8 and is none."""
    content = zipped("net/é", "net/data.pkl")
    place = content.rindex("é".encode())
    return content[:place] + b"\xff\xff" + content[place + 2 :]


def tarred() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("model.onnx"))
    return buffer.getvalue()


NO_MODELS = {
    "nothing": (b"", Kind.EMPTY),
    "a Git LFS pointer": (LFS_POINTER.encode(), Kind.LFS_POINTER),
    "a web page": (b"<!DOCTYPE html>\n<html><body>Sign in</body></html>", Kind.HTML),
    "a web page after blanks": (b"\xef\xbb\xbf\n  <HTML lang=en>", Kind.HTML),
    "JSON": (b'{"error": "not found"}', Kind.TEXT),
    "Python": ("# ünïcode\nimport torch\n".encode(), Kind.TEXT),
    "text that is cut inside a character": (b"a" * (HEAD_BYTES - 1) + "ü".encode(), Kind.TEXT),
    "text with the fields of a ModelProto": (b":text", Kind.TEXT),
    "a zip archive": (zipped("model.onnx"), Kind.ZIP),
    "an .npz archive": (zipped("x.npy", "y.npy"), Kind.ZIP),
    "an empty zip archive": (zipped(), Kind.ZIP),
    "half a checkpoint": (zipped("net/data.pkl", "net/data/0")[:60], Kind.BROKEN_ZIP),
    "a checkpoint with a damaged directory": (with_damaged_directory(), Kind.BROKEN_ZIP),
    "a tar archive": (tarred(), Kind.TAR),
    "a compressed file": (gzip.compress(b"model"), Kind.GZIP),
    "a plain pickle": (pickle.dumps({"weight": 1}), Kind.PICKLE),
    "TorchScript": (zipped("net/data.pkl", "net/code/__torch__/net.py", "net/constants.pkl"), Kind.TORCHSCRIPT),
    "random bytes": (bytes(range(255, 0, -1)), Kind.UNKNOWN),
    "a picture": (b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR", Kind.UNKNOWN),
    "a field of another message": (b"\x52\x03abc", Kind.UNKNOWN),
    "a known field of another type": (b"\x0a\x03ab\x00", Kind.UNKNOWN),
    "an IR version out of reach": (b"\x08\xff\xff\xff\xff\x0f", Kind.UNKNOWN),
    "safetensors with a header longer than the file": ((10_000).to_bytes(8, "little") + b"{}", Kind.UNKNOWN),
}
MODEL_FILES = {
    "ONNX": (onnx_model().SerializeToString(), Kind.ONNX),
    "ONNX with the graph first": (b"\x3a\x02\x12\x00" + b"\x08\x0a", Kind.ONNX),
    "ONNX whose graph is longer than what is read": (b"\x08\x0a\x3a\xff\xff\xff\x7f\x0a", Kind.ONNX),
    "ONNX with a long doc string": (b"\x08\x0a\x32\x80\x80\x08" + b"d" * HEAD_BYTES, Kind.ONNX),
    "ONNX of a later version": (b"\x08\x0a\xda\x02\x03abc\x3a\x00", Kind.ONNX),
    ".pt2 of today": (zipped("net/archive_format", "net/models/model.json", "net/data/weights/w"), Kind.PT2),
    ".pt2 before torch 2.7": (zipped("version", "serialized_exported_program.json"), Kind.PT2),
    "an index of shards": (b'{"metadata": {}, "weight_map": {"a": "net-1.safetensors"}}', Kind.SAFETENSORS_INDEX),
    "safetensors": ((2).to_bytes(8, "little") + b"{}", Kind.SAFETENSORS),
    "a checkpoint": (zipped("net/data.pkl", "net/byteorder", "net/data/0", "net/version"), Kind.TORCH_ZIP),
}


@pytest.mark.parametrize(("content", "kind"), NO_MODELS.values(), ids=NO_MODELS)
def test_what_is_no_model_is_named_and_refused_with_a_way_out(tmp_path: Path, content: bytes, kind: Kind) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    assert recognise(path) is kind
    with pytest.raises(InputError) as refusal:
        require_model(path)
    assert refusal.value.what == f"cannot read a model from {path}: it is {kind.value}"
    assert refusal.value.remedy
    assert len(str(refusal.value).splitlines()) <= 3


@pytest.mark.parametrize(("content", "kind"), MODEL_FILES.values(), ids=MODEL_FILES)
def test_a_model_is_recognised_whatever_its_name(tmp_path: Path, content: bytes, kind: Kind) -> None:
    path = tmp_path / "model.txt"
    path.write_bytes(content)
    assert require_model(path) is kind


def test_every_kind_of_model_and_of_refusal_has_a_case() -> None:
    seen = {kind for _, kind in (*NO_MODELS.values(), *MODEL_FILES.values())}
    elsewhere = {Kind.FOLDER, Kind.SPECIAL, Kind.TORCH_PICKLE}
    assert seen | elsewhere == set(Kind)
    assert {kind for _, kind in MODEL_FILES.values()} | {Kind.TORCH_PICKLE} == MODELS


def test_what_pytorch_writes_is_told_apart(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    safetensors = pytest.importorskip("safetensors.torch")
    module = torch.nn.Linear(2, 2)
    torch.save(module.state_dict(), tmp_path / "state.pt")
    torch.save(module, tmp_path / "module.pt")
    torch.save(module.state_dict(), tmp_path / "legacy.pt", _use_new_zipfile_serialization=False)
    torch.export.save(torch.export.export(module, (torch.zeros(1, 2),)), tmp_path / "program.pt2")
    safetensors.save_file(module.state_dict(), tmp_path / "net.safetensors")
    assert {path.name: recognise(path) for path in tmp_path.iterdir()} == {
        "state.pt": Kind.TORCH_ZIP,
        "module.pt": Kind.TORCH_ZIP,
        "legacy.pt": Kind.TORCH_PICKLE,
        "program.pt2": Kind.PT2,
        "net.safetensors": Kind.SAFETENSORS,
    }


def test_only_the_head_of_a_large_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    with path.open("wb") as stream:
        stream.write(b"\x08\x0a")
        stream.seek(1 << 40)  # a hole of a terabyte
        stream.write(b"\x00")
    assert recognise(path) is Kind.UNKNOWN  # zeros are no field


@pytest.mark.parametrize("seed", range(20))
def test_damaged_bytes_never_raise_anything_but_an_input_error(tmp_path: Path, seed: int) -> None:
    generator = np.random.default_rng(seed)
    whole = [content for content, _ in (*NO_MODELS.values(), *MODEL_FILES.values()) if content]
    damaged = bytearray(whole[seed % len(whole)])
    for place in generator.integers(0, len(damaged), 1 + len(damaged) // 20):
        damaged[place] = generator.integers(0, 256)
    path = tmp_path / "model"
    path.write_bytes(damaged)
    assert isinstance(recognise(path), Kind)


def test_a_missing_file_comes_with_near_names(tmp_path: Path) -> None:
    (tmp_path / "resnet18.onnx").touch()
    (tmp_path / "notes.txt").touch()
    with pytest.raises(InputError) as refusal:
        require_model(tmp_path / "resnet81.onnx")
    assert refusal.value.what == f"there is no file {tmp_path / 'resnet81.onnx'}"
    assert refusal.value.remedy == f"did you mean {tmp_path / 'resnet18.onnx'}?"


def test_a_missing_file_with_no_near_name_has_no_suggestion(tmp_path: Path) -> None:
    with pytest.raises(InputError) as refusal:
        require_model(tmp_path / "model.onnx")
    assert refusal.value.remedy == ""


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nor a folder .*models"):
        require_model(tmp_path / "models" / "model.onnx")


def test_a_path_through_a_file_is_missing(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").touch()
    with pytest.raises(InputError, match="there is no file"):
        require_model(tmp_path / "model.onnx" / "model.onnx")


def test_a_link_to_nothing_says_where_it_leads(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").symlink_to(tmp_path / "moved.onnx")
    with pytest.raises(InputError, match=r"is a link to .*moved\.onnx, which does not exist"):
        require_model(tmp_path / "model.onnx")


def test_a_name_that_would_fool_the_terminal_is_escaped(tmp_path: Path) -> None:
    (tmp_path / "model\x1b[2K.onnx").touch()
    with pytest.raises(InputError) as refusal:
        require_model(tmp_path / "model.onnx")
    assert "\\x1b[2K" in refusal.value.remedy


def test_a_folder_says_which_models_are_in_it(tmp_path: Path) -> None:
    (tmp_path / "b.safetensors").touch()
    (tmp_path / "a.onnx").touch()
    (tmp_path / "README.md").touch()
    with pytest.raises(InputError, match="it is a folder") as refusal:
        require_model(tmp_path)
    assert refusal.value.remedy == f"give a file in it: {tmp_path / 'a.onnx'}, {tmp_path / 'b.safetensors'}"


def test_a_folder_without_models_is_refused_too(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="it is a folder\ngive a model file"):
        require_model(tmp_path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "model.onnx")
    with pytest.raises(InputError, match="a device, pipe or socket"):
        require_model(tmp_path / "model.onnx")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_is_an_input_error(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").touch(mode=0o000)
    with pytest.raises(InputError, match="Permission denied"):
        require_model(tmp_path / "model.onnx")
