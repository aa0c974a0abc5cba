"""Models that break the standard: refused at loading, or left alone where they break; no other error, and no hang."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from random import Random

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import ModelProto, helper
from onnx_graphs import bn, model, parameters, verdicts, weight

from bnfold import fold
from bnfold.errors import InputError, UnsafeError

TENSORS = {"w": weight(4, 3, 3, 3), "k": weight(4), **parameters(4)}
BODY = f"c = Conv<group = 1>(x, w, k) a = AveragePool<kernel_shape = [2, 2]>(c) yyyy = {bn('a')}"


def conv_pool_bn() -> ModelProto:
    proto = model(BODY, TENSORS, x="float[NNNN,3,6,6] x", y="float[] yyyy")
    proto.metadata_props.add(key="kkkk", value="vvvv")
    function = helper.make_function(
        "ddd1", "ffff", ["iiii"], ["oooo"], [helper.make_node("Relu", ["iiii"], ["oooo"])], []
    )
    proto.functions.append(function)
    proto.opset_import.append(helper.make_opsetid("ddd1", 1))
    branch = helper.make_graph([helper.make_node("Relu", ["bbbb"], ["r"])], "ssss", [], [])
    proto.graph.node.append(helper.make_node("If", ["bbbb"], ["r"], then_branch=branch, else_branch=branch))
    return proto


@pytest.mark.parametrize(
    "name", ["yyyy", "AveragePool", "kernel_shape", "NNNN", "kkkk", "vvvv", "ffff", "ddd1", "iiii", "bbbb", "ssss"]
)
def test_a_name_that_is_no_utf_8_is_refused_and_shown(name: str, tmp_path: Path) -> None:
    before = name.encode()
    path = tmp_path / "model.onnx"
    path.write_bytes(conv_pool_bn().SerializeToString().replace(before, b"\xff" + before[1:]))
    with pytest.raises(InputError, match=r"is not UTF-8: b'\\xff") as caught:
        fold(path)
    assert caught.value.where == str(path)
    assert len(str(caught.value).splitlines()) == 3
    with pytest.raises(InputError, match="is not UTF-8"):
        fold(ModelProto.FromString(path.read_bytes()))


def test_a_text_that_is_no_utf_8_means_nothing() -> None:
    proto = model(BODY.replace("<group = 1>", '<auto_pad = "VALID">'), TENSORS, y="float[] yyyy")
    damaged = ModelProto.FromString(proto.SerializeToString().replace(b"VALID", b"\xffALID"))
    assert verdicts(fold(damaged).plan) == {"yyyy": "c"}


def _attribute(name: str, value: object) -> Callable[[ModelProto], None]:
    def damage(proto: ModelProto) -> None:
        del proto.graph.node[0].attribute[:]
        proto.graph.node[0].attribute.append(helper.make_attribute(name, value))

    return damage


def _perm(proto: ModelProto) -> None:
    proto.graph.node[1].CopyFrom(helper.make_node("Transpose", ["c"], ["a"], perm=[0, 1, 2, 2]))


def _blocks(proto: ModelProto) -> None:
    proto.graph.node[1].CopyFrom(helper.make_node("DepthToSpace", ["c"], ["a"], blocksize=3))


def _no_type(proto: ModelProto) -> None:
    proto.graph.node[0].attribute[0].ClearField("type")


def _size(proto: ModelProto) -> None:
    proto.graph.input[0].type.tensor_type.shape.dim[2].dim_value = -5


def _weight_of_no_type(proto: ModelProto) -> None:
    next(item for item in proto.graph.initializer if item.name == "w").data_type = 39


def _weight_of_no_size(proto: ModelProto) -> None:
    next(item for item in proto.graph.initializer if item.name == "w").dims[0] = -4


def _flat_weight(proto: ModelProto) -> None:
    item = next(item for item in proto.graph.initializer if item.name == "w")
    del item.dims[:]
    item.dims.append(108)


def _no_output(proto: ModelProto) -> None:
    del proto.graph.node[1].output[:]


def _no_input(proto: ModelProto) -> None:
    del proto.graph.node[1].input[:]


DAMAGE = [
    pytest.param(_attribute("group", 0), "no-linear-layer", id="no groups"),
    pytest.param(_attribute("group", -1), "no-linear-layer", id="less than no groups"),
    pytest.param(_attribute("group", 3), "no-linear-layer", id="groups that the weight does not divide into"),
    pytest.param(_attribute("group", 1.0), "no-linear-layer", id="a number of groups that is a fraction"),
    pytest.param(_attribute("auto_pad", 1), "no-linear-layer", id="a text that is a number"),
    pytest.param(_perm, "no-linear-layer", id="an axis twice"),
    pytest.param(_blocks, "no-linear-layer", id="blocks of more channels than there are"),
    pytest.param(_no_type, "no-linear-layer", id="an attribute without a type"),
    pytest.param(_size, "c", id="a negative size"),
    pytest.param(_weight_of_no_type, "weight-not-constant", id="a weight of no known type"),
    pytest.param(_weight_of_no_size, "weight-not-constant", id="a weight of negative size"),
    pytest.param(_flat_weight, "no-linear-layer", id="a weight without axes"),
    pytest.param(_no_output, "no-linear-layer", id="no output"),
    pytest.param(_no_input, "no-linear-layer", id="no input"),
]


@pytest.mark.parametrize(("damage", "verdict"), DAMAGE)
def test_a_broken_operator_is_left_alone(damage: Callable[[ModelProto], None], verdict: str) -> None:
    proto = model(BODY, TENSORS, y="float[] yyyy")
    damage(proto)
    assert verdicts(fold(proto).plan) == {"yyyy": verdict}


HUGE = 1 << 40


@pytest.mark.parametrize(
    ("body", "tensors"),
    [
        pytest.param(
            f"c = Conv(x, w, k) r = Gather<axis = 1>(z, i) y = {bn('r')}",
            TENSORS | {"i": np.array([0, 1, 2, 3])},
            id="positions of an axis",
        ),
        pytest.param(f"r = DepthToSpace<blocksize = 2>(z) y = {bn('r')}", TENSORS, id="blocks of channels"),
        pytest.param(f"r = Concat<axis = 1>(z, z) y = {bn('r')}", TENSORS, id="joined"),
        pytest.param(f"r = Add(z, k) n = {bn('r')} y = Relu(n)", TENSORS | {"k": np.array(1, np.float32)}, id="a sum"),
        pytest.param(f"r = Flatten(z) y = {bn('r')}", TENSORS, id="flattened"),
    ],
)
def test_a_size_that_no_machine_has_takes_no_memory(body: str, tensors: dict[str, np.ndarray]) -> None:
    proto = model(body, tensors, x=f"float[2,3,6,6] x, float[2,{HUGE},4,4] z")
    assert set(verdicts(fold(proto).plan).values()) <= {"layout-moves-channels", "no-linear-layer", "channel-mismatch"}


RICH = model(
    'c = Conv<pads = [1, 1, 1, 1]>(x, w, k) p = Pad<mode = "reflect">(c, pads) o = Gather<axis = 1>(p, i) '
    f'r = Resize<mode = "nearest">(o, , s) n = {bn("r")} q = ReduceMean<keepdims = 0>(n, axes) f = Flatten(q) '
    "z = Gemm<alpha = 0.5>(f, u) t = Transpose<perm = [0, 1]>(z) h = Shape(t) l = Reshape(t, h) y = Sub(l, z)",
    TENSORS
    | {"pads": np.array([0, 0, 1, 1, 0, 0, 1, 1]), "i": np.array([1, 0, 2, 3]), "axes": np.array([2, 3])}
    | {"s": np.array([1, 1, 2, 2], np.float32), "u": weight(4, 5)},
).SerializeToString()


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.integers(0, 2**32 - 1))
def test_a_model_with_wrong_bytes_is_folded_or_refused(seed: int) -> None:
    random = Random(seed)  # noqa: S311 - reproducible, not secret
    content = bytearray(RICH)
    for _ in range(random.choice([1, 1, 2, 4])):
        position = random.randrange(len(content))
        content[position] = random.choice([random.randrange(256), content[position] ^ 1 << random.randrange(8), 0, 255])
    proto = ModelProto()
    try:
        proto.ParseFromString(bytes(content))
    except Exception:  # noqa: BLE001 - protobuf's own errors, of which it has several
        return
    with suppress(InputError, UnsafeError):
        fold(proto)
