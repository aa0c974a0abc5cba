"""Running an ONNX model in the standard's own evaluator: slow, and there for every operator and type."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np

from bnfold.errors import InputError
from bnfold.runtime.session import Array, Feeds, TensorSpec

if TYPE_CHECKING:
    import onnx
    from onnx.reference import ReferenceEvaluator
    from onnx.reference.op_run import OpRun

_TRAINING_MODE_FROM = 14
"""From this opset on a batch norm says itself whether it trains."""


def open_session(model: bytes | Path) -> ReferenceSession:
    """A session on ``model``: a serialised ModelProto, or the path of one. Raises InputError where it is rejected."""
    import onnx
    from onnx.reference import ReferenceEvaluator

    try:
        proto = onnx.load(model) if isinstance(model, Path) else onnx.load_model_from_string(model)
        evaluator = ReferenceEvaluator(proto, new_ops=_corrections(proto))
    except Exception as error:
        raise _explained(error, "onnx.reference rejects the model") from error
    return ReferenceSession(evaluator, proto.graph)


def _corrections(model: onnx.ModelProto) -> list[type[OpRun]]:
    """Operators for which the evaluator must not be taken at its word.

    Its batch norm normalises with the batch's own statistics up to opset 13 wherever ``momentum`` is not 1, which by
    default it is not (onnx/reference/ops/op_batch_normalization.py); the standard does so only with further outputs.
    """
    from onnx.reference.op_run import OpRun

    opset = max((item.version for item in model.opset_import if item.domain in {"", "ai.onnx"}), default=1)
    if opset >= _TRAINING_MODE_FROM:
        return []

    class BatchNormalization(OpRun):
        op_domain = ""

        def _run(  # the signature that the evaluator calls with inputs, then attributes by name
            self, x: Array, scale: Array, bias: Array, mean: Array, variance: Array, **attributes: float
        ) -> tuple[Array]:
            along = (1, -1, *[1] * (x.ndim - 2))
            epsilon = attributes.get("epsilon") or 1e-5
            normal = (x - mean.reshape(along)) / np.sqrt(variance.reshape(along) + epsilon)
            return ((normal * scale.reshape(along) + bias.reshape(along)).astype(x.dtype),)

    return [BatchNormalization]


class ReferenceSession:
    """A ``Session`` on an ``onnx.reference.ReferenceEvaluator``."""

    def __init__(self, evaluator: ReferenceEvaluator, graph: onnx.GraphProto) -> None:
        self.label = "onnx.reference"
        constants = {tensor.name for tensor in graph.initializer}
        # Before IR version 4 every initializer is listed as an input, too.
        self.inputs = tuple(_spec(value) for value in graph.input if value.name not in constants)
        self.outputs = tuple(map(_spec, graph.output))
        self._evaluator = evaluator

    def run(self, feeds: Feeds) -> dict[str, Array]:
        """Outputs by name, in the model's order. Raises InputError where the evaluator fails on model or feeds."""
        try:
            arrays = self._compute(feeds)
        except Exception as error:
            raise _explained(error, "onnx.reference fails on the model") from error
        names = (spec.name for spec in self.outputs)
        return {name: np.asarray(array) for name, array in zip(names, arrays, strict=True)}

    def prepare(self, feeds: Feeds) -> Callable[[], object]:
        """A call that runs the model once."""
        return partial(self._compute, dict(feeds))

    def _compute(self, feeds: Feeds) -> Iterable[Array]:
        """One run. NaN and infinities are results like others here, and no reason for a warning on stderr."""
        with np.errstate(all="ignore"):
            return cast("Iterable[Array]", self._evaluator.run(None, dict(feeds)))


def _spec(value: onnx.ValueInfoProto) -> TensorSpec:
    from onnx import helper

    tensor = value.type.tensor_type
    if not tensor.elem_type:
        raise InputError(
            f"the model's {value.name!r} is no tensor",
            remedy="bnfold runs models whose inputs and outputs are tensors of numbers, booleans or text",
        )
    dtype = helper.tensor_dtype_to_np_dtype(tensor.elem_type)
    name = "str" if dtype.kind == "O" else dtype.name
    if not tensor.HasField("shape"):
        return TensorSpec(value.name, name, None)
    shape = tuple(dim.dim_value if dim.HasField("dim_value") else dim.dim_param or None for dim in tensor.shape.dim)
    return TensorSpec(value.name, name, shape)


def _explained(error: Exception, what: str) -> InputError:
    message = str(error)
    return InputError(f"{what}: {message.splitlines()[0] if message else type(error).__name__}")
