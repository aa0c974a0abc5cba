"""Writing a model tensor by tensor, so that no second copy of its weights is ever made.

To protobuf, the order of a message's fields means nothing: the graph goes last, and the initializers last in it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from onnx import GraphProto, ModelProto, TensorProto

from bnfold.errors import InputError
from bnfold.formats.onnx.references import Reference, drop_reference
from bnfold.formats.onnx.tensors import NewTensor
from bnfold.formats.onnx.wire import framed

if TYPE_CHECKING:
    from _typeshed import SupportsWrite

PROTOBUF_LIMIT_BYTES: Final = 2**31 - 1
"""The largest message that protobuf reads or writes."""


@dataclass(frozen=True)
class _Piece:
    """An initializer as it goes into the file: ``head``, then ``length`` bytes that ``load`` gives."""

    head: bytes
    length: int
    load: Callable[[], bytes | memoryview]


def write_model(model: ModelProto, new: Mapping[str, NewTensor], stream: SupportsWrite[bytes | memoryview]) -> None:
    """Write ``model``, with the values of its ``new`` initializers, by name; the same model gives the same bytes.

    Raises InputError where it would pass what protobuf can read.
    """
    rest = ModelProto()
    rest.CopyFrom(model)
    pieces = [_piece(tensor, new.get(tensor.name)) for tensor in rest.graph.initializer]
    rest.graph.ClearField("initializer")
    graph = rest.graph.SerializeToString(deterministic=True)
    rest.ClearField("graph")
    around = rest.SerializeToString(deterministic=True)
    graph_bytes = len(graph) + sum(len(piece.head) + piece.length for piece in pieces)
    around += framed(ModelProto.GRAPH_FIELD_NUMBER, graph_bytes)
    if len(around) + graph_bytes > PROTOBUF_LIMIT_BYTES:
        raise InputError(
            "the folded model passes 2 GB, the limit of one ONNX file",
            remedy="bnfold writes a model with external data as one file; larger ones are not supported yet",
        )
    stream.write(around)
    stream.write(graph)
    for piece in pieces:
        stream.write(piece.head)
        stream.write(piece.load())


def _piece(tensor: TensorProto, new: NewTensor | None) -> _Piece:
    """An initializer, with its bytes from where they come: computed, in a file, or in itself."""
    if new is not None:
        return _raw_piece(tensor, new.length, new.read)
    reference = Reference.of(tensor)
    if reference is not None:
        drop_reference(tensor)
        return _raw_piece(tensor, reference.length, lambda: reference.read(tensor.name))
    message = tensor.SerializeToString(deterministic=True)
    return _Piece(framed(GraphProto.INITIALIZER_FIELD_NUMBER, len(message)), len(message), lambda: message)


def _raw_piece(tensor: TensorProto, length: int, load: Callable[[], bytes | memoryview]) -> _Piece:
    """A tensor whose ``raw_data`` comes from elsewhere."""
    head = tensor.SerializeToString(deterministic=True) + framed(TensorProto.RAW_DATA_FIELD_NUMBER, length)
    return _Piece(framed(GraphProto.INITIALIZER_FIELD_NUMBER, len(head) + length) + head, length, load)
