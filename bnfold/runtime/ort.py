"""Running an ONNX model in onnxruntime, on the processor: as written or as deployed."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bnfold.errors import InputError
from bnfold.runtime.session import Array, Feeds, NoKernelError, TensorSpec

if TYPE_CHECKING:
    import onnxruntime

# onnxruntime's own names for tensor types (onnxruntime/core/framework/data_types.cc), in NumPy's words.
_DTYPES = {
    "tensor(float16)": "float16",
    "tensor(float)": "float32",
    "tensor(double)": "float64",
    "tensor(bfloat16)": "bfloat16",
    "tensor(bool)": "bool",
    "tensor(string)": "str",
    **{f"tensor({sign}int{bits})": f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)},
}
_CODES = re.compile(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ")
_BEYOND_IT = (
    "Type 'tensor(bfloat16)' of input parameter",
    "ValidateOpsetForDomain",
    "Unsupported model IR version",
)
"""What onnxruntime says of models that the standard's own evaluator may still run."""
_SILENT = 4  # log only what is fatal: onnxruntime's native log goes to the process's own stderr


def open_session(model: bytes | Path, *, optimise: bool, threads: int | None = None) -> OrtSession:
    """A session on ``model``: a serialised ModelProto, or the path of one (needed for external data and over 2 GB).

    Without ``optimise`` the graph runs operator by operator as it is written (ORT_DISABLE_ALL); with it, as
    onnxruntime's default level rewrites it. ``threads`` bounds the threads within an operator; None leaves it to
    onnxruntime.

    Raises:
        NoKernelError: onnxruntime lacks a kernel for an operator in its types (Conv in float64 or bfloat16), or cannot
            hand the model's bfloat16 inputs or outputs to NumPy.
        InputError: onnxruntime rejects the model.
    """
    import onnxruntime

    source = str(model) if isinstance(model, Path) else model
    options = _options(optimise=optimise, threads=threads)
    try:
        session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise _explained(error, "onnxruntime rejects the model") from error
    return OrtSession(session, "onnxruntime, " + ("default optimisations" if optimise else "optimisations off"))


class OrtSession:
    """A ``Session`` on an ``onnxruntime.InferenceSession``."""

    def __init__(self, session: onnxruntime.InferenceSession, label: str) -> None:
        self.label = label
        self.inputs = tuple(map(_spec, session.get_inputs()))
        self.outputs = tuple(map(_spec, session.get_outputs()))
        self._session = session
        self._names = [spec.name for spec in self.outputs]
        _refuse_bfloat16(*self.inputs, *self.outputs)

    def run(self, feeds: Feeds) -> dict[str, Array]:
        """Outputs by name, in the model's order. Raises InputError where onnxruntime rejects the feeds."""
        try:
            arrays = self._session.run(self._names, dict(feeds))
        except Exception as error:
            raise _explained(error, "onnxruntime fails on the model's inputs") from error
        return dict(zip(self._names, arrays, strict=True))

    def prepare(self, feeds: Feeds) -> Callable[[], object]:
        """A call that runs the model once; onnxruntime reads the feeds' memory in place, so nothing is converted."""
        return partial(self._session.run, self._names, dict(feeds))


def _options(*, optimise: bool, threads: int | None) -> onnxruntime.SessionOptions:
    from onnxruntime import GraphOptimizationLevel, SessionOptions

    options = SessionOptions()
    options.log_severity_level = _SILENT
    if not optimise:
        options.graph_optimization_level = GraphOptimizationLevel.ORT_DISABLE_ALL
    if threads is not None:
        options.intra_op_num_threads = threads
    # Idle workers spin for a while after each run. With two sessions timed in turn, one's would slow the other.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    return options


def _spec(argument: Any) -> TensorSpec:  # noqa: ANN401 - onnxruntime.NodeArg, which comes without types
    dtype = _DTYPES.get(argument.type)
    if dtype is None:
        raise InputError(
            f"the model's {argument.name!r} is of type {argument.type}",
            remedy="bnfold runs models whose inputs and outputs are tensors of numbers, booleans or text",
        )
    return TensorSpec(argument.name, dtype, tuple(argument.shape))


def _refuse_bfloat16(*specs: TensorSpec) -> None:
    for spec in specs:
        if spec.dtype == "bfloat16":
            raise NoKernelError(f"onnxruntime gives no access from NumPy to {spec.name!r}, which is bfloat16")


def _explained(error: Exception, what: str) -> InputError:
    """The error in one line; a missing kernel, and a version that is newer than the runtime, as NoKernelError.

    Before opset 22 the standard has no Conv in bfloat16, and onnxruntime calls the graph invalid; exporters write such
    graphs all the same, so that this too is a missing kernel.
    """
    from onnxruntime.capi.onnxruntime_pybind11_state import NotImplemented as MissingKernel

    message = str(error)
    cause = _CODES.sub("", " ".join(message.split())) or type(error).__name__
    is_beyond_it = any(sign in message for sign in _BEYOND_IT)
    kind = NoKernelError if isinstance(error, MissingKernel) or is_beyond_it else InputError
    return kind(f"{what}: {cause}")
