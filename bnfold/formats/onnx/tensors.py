"""Stored tensors: protobuf to NumPy and back."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from bnfold.errors import InputError
from bnfold.formats.onnx.references import Reference


def dtype_name(data_type: int) -> str:
    """An ONNX data type in NumPy's words (and ml_dtypes' beyond them: bfloat16, float8_e4m3fn, …)."""
    return str(helper.tensor_dtype_to_np_dtype(data_type))


def tensor_values(tensor: TensorProto) -> NDArray[Any]:
    """The values of a stored tensor. Raises InputError where data and shape disagree, or its file is not as it was."""
    reference = Reference.of(tensor)
    if reference is not None:
        dtype = helper.tensor_dtype_to_np_dtype(tensor.data_type).newbyteorder("<")
        return np.frombuffer(reference.read(tensor.name), dtype).reshape(tuple(tensor.dims))
    try:
        return numpy_helper.to_array(tensor)
    except (ValueError, TypeError) as error:
        raise InputError(
            f"the tensor {tensor.name!r} is corrupt: its data does not fit its shape {list(tensor.dims)}",
            remedy="export the model again",
        ) from error


def widened(values: NDArray[Any]) -> NDArray[Any]:
    """The same numbers in one of NumPy's own dtypes: bfloat16 becomes float32."""
    return values.astype(np.float32) if values.dtype.name == "bfloat16" else values


_DATA_TYPES = {"float32": "FLOAT", "float16": "FLOAT16", "bfloat16": "BFLOAT16", "float64": "DOUBLE"}


def make_tensor(name: str, values: NDArray[Any], dtype: str) -> TensorProto:
    """A tensor of ``values``, which for bfloat16 are its bits in uint16."""
    little_endian = values.astype(values.dtype.newbyteorder("<"), copy=False)
    return TensorProto(
        name=name,
        dims=values.shape,
        data_type=TensorProto.DataType.Value(_DATA_TYPES[dtype]),
        raw_data=little_endian.tobytes(),
    )
