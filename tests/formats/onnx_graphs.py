"""Small ONNX models from ONNX's own text form, and the judge of what a fold made of them."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper, parser, shape_inference

from bnfold import fold
from bnfold.core.verdict import Fold, Plan
from bnfold.runtime import onnx_reference, ort
from bnfold.runtime.session import NoKernelError

Arrays = dict[str, NDArray[Any]]
BN = "g, b, m, v"
"""The parameters of a batch norm, as ``parameters`` names them."""


def parameters(channels: int, suffix: str = "", dtype: str = "float32", seed: int = 0) -> Arrays:
    """γ, β, μ, σ² far from identity, as ``g``, ``b``, ``m``, ``v`` and the suffix."""
    rng = np.random.default_rng([seed, channels])
    values = (
        rng.uniform(0.5, 3, channels) * rng.choice([-1, 1], channels),
        rng.normal(0, 2, channels),
        rng.normal(0, 2, channels),
        rng.uniform(0.1, 5, channels),
    )
    return {name + suffix: value.astype(dtype) for name, value in zip("gbmv", values, strict=True)}


def weight(*shape: int, dtype: str = "float32", seed: int = 1) -> NDArray[Any]:
    """Weights from N(0, 1)."""
    return np.random.default_rng([seed, *shape]).normal(size=shape).astype(dtype)


def model(
    body: str,
    tensors: Arrays,
    *,
    x: str = "float[2,3,6,6] x",
    y: str = "float[] y",
    opset: int = 20,
    ir_version: int = 10,
) -> ModelProto:
    """A model with inputs ``x``, outputs ``y``, the nodes of ``body``, and ``tensors`` as initializers."""
    domains = f'"" : {opset}' + (', "com.example" : 1' if "com.example" in body else "")
    proto = parser.parse_model(f"<ir_version: {ir_version}, opset_import: [{domains}]> g ({x}) => ({y}) {{ {body} }}")
    for name, values in tensors.items():
        proto.graph.initializer.append(tensor(name, values))
        if ir_version < 4:
            item = proto.graph.initializer[-1]
            proto.graph.input.append(helper.make_tensor_value_info(name, item.data_type, item.dims))
    inferred = shape_inference.infer_shapes(proto, data_prop=True)
    for declared, known in zip(proto.graph.output, inferred.graph.output, strict=True):
        declared.CopyFrom(known)
    return proto


def tensor(name: str, values: NDArray[Any]) -> TensorProto:
    return numpy_helper.from_array(values, name)


def read_by(body: str, tensors: Arrays) -> Arrays:
    """Those of the tensors that the text of a model names."""
    words = set(re.split(r"[\s,()]+", body))
    return {name: values for name, values in tensors.items() if name in words}


def bn(source: str, suffix: str = "") -> str:
    """The text of a batch norm with the parameters of that suffix."""
    return f"BatchNormalization({source}, {', '.join(name + suffix for name in BN.split(', '))})"


def case(verdict: Any, body: str, tensors: Arrays, *, id: str, **options: Any) -> Any:  # noqa: A002 - pytest's word
    """A row of a table: a model, and what becomes of the batch norms in it."""
    return pytest.param(model(body, tensors, **options), verdict, id=id)


def verdicts(plan: Plan) -> dict[str, str]:
    """By batch norm: the layers it folds into, or the reason's slug."""
    return {
        verdict.bn.label: ",".join(node.label for node in verdict.into)
        if isinstance(verdict, Fold)
        else verdict.reason.slug
        for verdict in plan
    }


def feeds_for(proto: ModelProto, seed: int = 0) -> Arrays:
    """Random feeds for every input that has no initializer; unknown dimensions are 6."""
    rng = np.random.default_rng(seed)
    known = {item.name for item in proto.graph.initializer}
    feeds = {}
    for item in proto.graph.input:
        if item.name in known:
            continue
        tensor_type = item.type.tensor_type
        shape = [dim.dim_value or 6 for dim in tensor_type.shape.dim]
        dtype = helper.tensor_dtype_to_np_dtype(tensor_type.elem_type)
        feeds[item.name] = np.asarray(rng.normal(size=shape)).astype(dtype)
    return feeds


def outputs_of(proto: ModelProto, feeds: Arrays) -> Arrays:
    """What the model computes as written: onnxruntime without optimisations, or onnx's reference."""
    content = proto.SerializeToString()
    try:
        return ort.open_session(content, optimise=False).run(feeds)
    except NoKernelError:
        return onnx_reference.open_session(content).run(feeds)


def assert_same_network(original: ModelProto, folded: ModelProto, tolerance: float = 1e-5) -> None:
    """The same outputs on random inputs, relative to the largest; a model that never moves proves nothing."""
    feeds = feeds_for(original)
    expected, actual = outputs_of(original, feeds), outputs_of(folded, feeds)
    assert list(expected) == list(actual)
    for name, before in expected.items():
        after = actual[name]
        assert before.dtype == after.dtype
        assert before.shape == after.shape
        scale = np.abs(before.astype(np.float64)).max(initial=0)
        assert scale > 0
        assert np.abs(before.astype(np.float64) - after.astype(np.float64)).max(initial=0) <= tolerance * scale


def assert_left_alone(proto: ModelProto, slug: str) -> None:
    """Its one batch norm stays, for that reason, and nothing else changes either."""
    result = fold(proto)
    assert list(verdicts(result.plan).values()) == [slug]
    assert result.model == proto


def assert_scale_matters(original: ModelProto, gamma: str) -> None:
    """The output moves when the batch norm's γ does; otherwise a comparison says nothing about it."""
    changed = ModelProto()
    changed.CopyFrom(original)
    inside = [node for function in changed.functions for node in function.node if gamma in node.output]
    found = [item for item in changed.graph.initializer if item.name == gamma] or [
        node.attribute[0].t for node in inside
    ]
    assert found
    for item in found:
        values = numpy_helper.to_array(item)
        item.CopyFrom(tensor(item.name, (values * 1.1).astype(values.dtype)))
    feeds = feeds_for(original)
    before, after = outputs_of(original, feeds), outputs_of(changed, feeds)
    assert any(not np.array_equal(before[name], after[name]) for name in before)


def folded(proto: ModelProto, **options: Any) -> tuple[ModelProto, dict[str, str]]:
    """The folded model, checked by onnx, and the verdicts; the model given stays as it was."""
    before = proto.SerializeToString(deterministic=True)
    result = fold(proto, **options)
    assert proto.SerializeToString(deterministic=True) == before
    if _passes_the_checker(proto):
        onnx.checker.check_model(result.model, full_check=True)
    return result.model, verdicts(result.plan)


def _passes_the_checker(proto: ModelProto) -> bool:
    """Whether the original does: what it gets wrong itself is not the fold's to mend."""
    try:
        onnx.checker.check_model(proto, full_check=True)
    except (onnx.checker.ValidationError, shape_inference.InferenceError):
        return False
    return True
