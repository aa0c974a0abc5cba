from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import ModelProto, TensorProto, helper
from onnx_graphs import BN, model, parameters, tensor, weight

import bnfold
from bnfold.errors import InputError, UnsafeError
from bnfold.files.writing import put
from bnfold.formats.onnx import references
from bnfold.formats.onnx.model import OnnxModel
from bnfold.formats.onnx.reading import read_model
from bnfold.formats.onnx.references import REFERENCED_FROM_BYTES, embed, is_reference
from bnfold.formats.onnx.writing import model_files
from bnfold.planner import plan

LARGE = REFERENCED_FROM_BYTES
DTYPES = ["float16", "float32", "float64", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"]


def conv_bn(channels: int = 40) -> ModelProto:
    """A convolution whose weight is large, and a batch norm whose parameters are not."""
    body = f"c = Conv (x, w) y = BatchNormalization (c, {BN})"
    return model(body, {"w": weight(channels, 3, 5, 5)} | parameters(channels))


def keeper(*tensors: TensorProto) -> ModelProto:
    """A model with these initializers, and nothing to fold."""
    proto = model("y = Relu (x)", {})
    proto.graph.initializer.extend(tensors)
    return proto


def saved(proto: ModelProto, folder: Path) -> Path:
    path = folder / "model.onnx"
    path.write_bytes(proto.SerializeToString())
    return path


def saved_apart(proto: ModelProto, folder: Path) -> Path:
    path = folder / "model.onnx"
    onnx.save(proto, path, save_as_external_data=True, location="model.data", size_threshold=0)
    return path


def written(opened: OnnxModel) -> bytes:
    """The model as one file, written anew even where nothing folds."""
    target = Path("written.onnx")
    stream = io.BytesIO()
    put(model_files(opened.proto, opened._new, target, apart=False)[target], stream)
    return stream.getvalue()


def plain(proto: ModelProto) -> ModelProto:
    """The same model without the word that a tensor's data lies in the model itself, which is the default."""
    for item in proto.graph.initializer:
        item.ClearField("data_location")
    return proto


def whole(path: Path) -> ModelProto:
    """What ``read_model`` makes of a file, with everything in memory."""
    proto = read_model(path)
    for item in proto.graph.initializer:
        embed(item)
    return proto


@pytest.mark.parametrize(
    ("content", "message"),
    {
        "nothing": (b"", "corrupt or cut short"),
        "text": (b"no model at all", "corrupt or cut short"),
        "half a model": (conv_bn().SerializeToString()[:5000], "corrupt or cut short"),
        "a model without its end": (conv_bn().SerializeToString()[:-1], "corrupt or cut short"),
        "no graph": (ModelProto(ir_version=10).SerializeToString(), "holds no graph"),
    }.values(),
    ids=["nothing", "text", "half a model", "a model without its end", "no graph"],
)
def test_what_is_no_model(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        OnnxModel.load(path)


def test_a_file_that_changes_while_it_is_folded(tmp_path: Path) -> None:
    path = saved(conv_bn(), tmp_path)
    opened = OnnxModel.load(path)
    path.write_bytes(path.read_bytes() + b"\x10\x01")
    weights = opened.view.constant("w")
    assert weights is not None
    with pytest.raises(InputError, match="changed while it was being read"):
        weights.load()


def test_a_file_that_vanishes_while_it_is_folded(tmp_path: Path) -> None:
    path = saved(conv_bn(), tmp_path)
    opened = OnnxModel.load(path)
    path.unlink()
    with pytest.raises(InputError, match="No such file"):
        written(opened)


def test_a_model_in_memory_whose_data_was_not_loaded(tmp_path: Path) -> None:
    proto = onnx.load(saved_apart(conv_bn(), tmp_path), load_external_data=False)
    with pytest.raises(InputError, match="not loaded"):
        bnfold.fold(proto)


def leave(item: TensorProto) -> None:
    item.external_data[0].value = "../secret"


def leave_absolutely(item: TensorProto) -> None:
    item.external_data[0].value = "/etc/passwd"


def forge(item: TensorProto) -> None:
    """A reference as another process would have made it."""
    with Path(os.devnull).open("rb") as stream:
        state = references.state_of(stream.fileno()).partition(":")[2]
    item.external_data[0].value = "/etc/passwd"
    item.external_data.add(key="state", value=f"{'0' * 32}:{state}")


def outgrow(item: TensorProto) -> None:
    next(entry for entry in item.external_data if entry.key == "offset").value = str(10**9)


def go_back(item: TensorProto) -> None:
    next(entry for entry in item.external_data if entry.key == "offset").value = "-8"


def babble(item: TensorProto) -> None:
    next(entry for entry in item.external_data if entry.key == "length").value = "much"


def miss(item: TensorProto) -> None:
    item.external_data[0].value = "elsewhere.data"


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (leave, UnsafeError, "outside the model's folder"),
        (leave_absolutely, UnsafeError, "outside the model's folder"),
        (forge, UnsafeError, "outside the model's folder"),
        (outgrow, InputError, "cut short"),
        (go_back, InputError, "cut short"),
        (babble, InputError, "cannot be read"),
        (miss, InputError, "cannot be read"),
    ],
)
@pytest.mark.parametrize("position", [0, 1], ids=["large", "small"])
def test_external_data_that_is_refused(
    tmp_path: Path, change: Callable[[TensorProto], None], error: type[Exception], message: str, position: int
) -> None:
    path = saved_apart(conv_bn(), tmp_path)
    proto = onnx.load(path, load_external_data=False)
    change(proto.graph.initializer[position])
    saved(proto, tmp_path)
    with pytest.raises(error, match=message):
        OnnxModel.load(path)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_large_tensor_stays_in_its_file(tmp_path: Path, dtype: str) -> None:
    values = np.arange(LARGE).astype(dtype).reshape(2, -1)
    proto = read_model(saved(keeper(tensor("t", values)), tmp_path))
    assert is_reference(proto.graph.initializer[0])
    assert proto.ByteSize() < 1000
    loaded = references.Reference.of(proto.graph.initializer[0])
    assert loaded is not None
    assert bytes(loaded.read("t")) == values.tobytes()


def test_folding_takes_no_memory_before_something_is_written(tmp_path: Path) -> None:
    opened = OnnxModel.load(saved(conv_bn(400), tmp_path))
    opened.apply(plan(opened.view))
    assert opened.proto.ByteSize() < 1000
    assert len(written(opened)) > 400 * 3 * 25 * 4


def packed() -> TensorProto:
    return helper.make_tensor("t", TensorProto.INT4, [2, LARGE], b"\x21" * LARGE, raw=True)


def misfit() -> TensorProto:
    return TensorProto(name="t", data_type=TensorProto.FLOAT, dims=[3], raw_data=b"\0" * LARGE)


def of_a_later_standard() -> TensorProto:
    return TensorProto(name="t", data_type=99, dims=[LARGE], raw_data=b"\0" * LARGE)


@pytest.mark.parametrize(
    "make",
    [
        packed,
        misfit,
        of_a_later_standard,
        lambda: tensor("t", np.array(["text" * LARGE])),
        lambda: tensor("t", weight(10)),
        lambda: helper.make_tensor("t", TensorProto.FLOAT, [LARGE], np.zeros(LARGE)),
    ],
    ids=["packed", "misfit", "of a later standard", "text", "small", "as numbers"],
)
def test_any_other_tensor_is_read(tmp_path: Path, make: Callable[[], TensorProto]) -> None:
    proto = keeper(make())
    assert read_model(saved(proto, tmp_path)) == proto


def test_initializers_keep_their_order(tmp_path: Path) -> None:
    tensors = [tensor(f"t{index}", weight(LARGE if index % 3 else 2)) for index in range(7)]
    proto = keeper(*tensors)
    assert whole(saved(proto, tmp_path)) == proto


def test_a_message_in_pieces_is_the_message(tmp_path: Path) -> None:
    first, second = keeper(tensor("a", weight(LARGE))), keeper(tensor("b", weight(LARGE)))
    path = tmp_path / "model.onnx"
    path.write_bytes(first.SerializeToString() + second.SerializeToString())
    expected = ModelProto()
    expected.ParseFromString(path.read_bytes())
    assert whole(path) == expected


UNKNOWN_NUMBER = b"\xc0\x3e\x07"  # field 1000, a varint
UNKNOWN_TEXT = b"\xc2\x3e\x02ok"  # field 1000, two bytes
UNKNOWN_FIXED = b"\xc5\x3e\x01\x02\x03\x04"  # field 1000, four bytes
UNKNOWN_GROUP = b"\xc3\x3e\x08\x01\xc4\x3e"  # field 1000, a group: nobody has written one for twenty years


@pytest.mark.parametrize("field", [UNKNOWN_NUMBER, UNKNOWN_TEXT, UNKNOWN_FIXED, UNKNOWN_GROUP], ids=repr)
def test_what_a_later_standard_adds_is_kept(tmp_path: Path, field: bytes) -> None:
    item = TensorProto.FromString(tensor("t", weight(LARGE)).SerializeToString() + field)
    proto = keeper(item)
    proto.graph.MergeFromString(field)
    path = saved(ModelProto.FromString(proto.SerializeToString() + field), tmp_path)
    content = written(OnnxModel.load(path))
    assert content.count(field) == 3
    assert ModelProto.FromString(content) == onnx.load(path)


CONTENT = keeper(tensor("a", weight(LARGE)), tensor("b", weight(3)), tensor("c", weight(2 * LARGE))).SerializeToString()


@settings(deadline=None, max_examples=200)
@given(
    cut=st.integers(0, len(CONTENT)),
    changes=st.lists(st.tuples(st.integers(0, len(CONTENT) - 1), st.integers(0, 255)), max_size=4),
)
def test_any_bytes_are_read_as_protobuf_reads_them(
    tmp_path_factory: pytest.TempPathFactory, cut: int, changes: list[tuple[int, int]]
) -> None:
    data = bytearray(CONTENT)
    for position, byte in changes:
        data[position] = byte
    path = tmp_path_factory.mktemp("bytes") / "model.onnx"
    path.write_bytes(data[:cut])
    try:
        expected = ModelProto.FromString(bytes(data[:cut]))
    except DecodeError:
        expected = ModelProto()
    if expected.HasField("graph"):
        assert whole(path) == expected
    else:
        with pytest.raises(InputError):
            read_model(path)


@pytest.mark.parametrize("save", [saved, saved_apart], ids=["in one file", "with external data"])
def test_a_path_and_a_model_in_memory_fold_alike(tmp_path: Path, save: Callable[[ModelProto, Path], Path]) -> None:
    path = save(conv_bn(), tmp_path)
    assert bnfold.fold(path).model == bnfold.fold(conv_bn()).model


@pytest.mark.parametrize("save", [saved, saved_apart], ids=["in one file", "with external data"])
def test_what_is_written_is_what_was_folded(tmp_path: Path, save: Callable[[ModelProto, Path], Path]) -> None:
    report = bnfold.convert(save(conv_bn(), tmp_path), tmp_path / "folded.onnx")
    content = (tmp_path / "folded.onnx").read_bytes()
    assert report.output is not None
    assert (report.output.sha256, report.output.bytes) == (hashlib.sha256(content).hexdigest(), len(content))
    folded = onnx.load(tmp_path / "folded.onnx")
    onnx.checker.check_model(folded, full_check=True)
    del folded.metadata_props[:]
    assert plain(folded) == plain(bnfold.fold(conv_bn()).model)


def test_writing_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    opened = OnnxModel.load(saved(conv_bn(), tmp_path))
    assert written(opened) == written(opened)


def test_external_data_of_a_subgraph_is_read(tmp_path: Path) -> None:
    branches = [f"{name} = t () => (float[1,1] a) {{ a = Identity (u) }}" for name in ("then_branch", "else_branch")]
    body = f"y = If (c) <{', '.join(branches)}>"
    proto = model(body, {"u": weight(1, 1)}, x="bool c")
    branch = proto.graph.node[0].attribute[0].g
    branch.initializer.append(tensor("inner", weight(LARGE)))
    path = saved_apart(proto, tmp_path)
    loaded = OnnxModel.load(path).proto.graph.node[0].attribute[0].g.initializer[0]
    assert loaded.raw_data == weight(LARGE).tobytes()


def test_large_bfloat16_weights(tmp_path: Path) -> None:
    values = weight(40, 3, 5, 5).astype(ml_dtypes.bfloat16)
    proto = keeper(tensor("t", values))
    view = OnnxModel.load(saved(proto, tmp_path)).view
    constant = view.constant("t")
    assert constant is not None
    np.testing.assert_array_equal(constant.load(), values.astype(np.float32))


@pytest.mark.skipif(os.name == "nt", reason="names are text there")
def test_a_name_may_be_any_bytes(tmp_path: Path) -> None:
    path = saved(conv_bn(), tmp_path).rename(Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff\xe4.onnx")))
    assert bnfold.fold(path).model == bnfold.fold(conv_bn()).model
