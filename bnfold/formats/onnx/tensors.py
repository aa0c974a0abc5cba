"""Stored tensors: protobuf to NumPy and back."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from bnfold.errors import InputError
from bnfold.formats.onnx.references import ITEM_BYTES, Reference


def dtype_name(data_type: int) -> str | None:
    """An ONNX data type in NumPy's words (and ml_dtypes' beyond them: bfloat16, float8_e4m3fn, …); None for none."""
    try:
        return str(helper.tensor_dtype_to_np_dtype(data_type))
    except KeyError:
        return None


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


@dataclass(frozen=True, eq=False)
class NewTensor:
    """A tensor that is yet to be computed: ``compute`` gives its values, in pieces (bfloat16 as their bits in uint16).

    It is computed whenever its bytes are asked for, and not kept: a piece at a time is in memory.
    """

    dtype: str
    shape: tuple[int, ...]
    compute: Callable[[], Iterable[NDArray[Any]]]

    @classmethod
    def of(cls, values: NDArray[Any], dtype: str) -> Self:
        """One of small values that are known already."""
        return cls(dtype, values.shape, lambda: (values,))

    @property
    def data_type(self) -> int:
        """The ONNX data type."""
        return int(TensorProto.DataType.Value(_DATA_TYPES[self.dtype]))

    @property
    def length(self) -> int:
        """The number of its bytes."""
        return math.prod(self.shape) * ITEM_BYTES[self.data_type]

    def pieces(self) -> Iterator[memoryview]:
        """Its bytes, as ONNX stores them."""
        for values in self.compute():
            little_endian = np.ascontiguousarray(values, values.dtype.newbyteorder("<"))
            yield little_endian.reshape(-1).view(np.uint8).data


_DATA_TYPES = {"float32": "FLOAT", "float16": "FLOAT16", "bfloat16": "BFLOAT16", "float64": "DOUBLE"}
