"""Writing a model tensor by tensor, so that no second copy of its weights is ever made.

In one file, to which protobuf sets a limit, or with the large tensors in a second one beside it (external data, see
``TensorProto.external_data`` in onnx.proto). To protobuf, the order of a message's fields means nothing: the graph
goes last, and the initializers last in it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from onnx import GraphProto, ModelProto, TensorProto

from bnfold.errors import InputError, UsageError
from bnfold.files.names import printable
from bnfold.formats.onnx.references import Reference, drop_reference
from bnfold.formats.onnx.tensors import NewTensor
from bnfold.formats.onnx.wire import framed

if TYPE_CHECKING:
    from _typeshed import SupportsWrite

    from bnfold.files.writing import Content

PROTOBUF_LIMIT_BYTES: Final = 2**31 - 1
"""The largest message that protobuf reads or writes."""

APART_FROM_BYTES: Final = 1024
"""Smaller tensors stay in the model, as onnx.save leaves them: shape inference reads some of them."""

PAGE_BYTES: Final = 4096
"""Where a tensor of a page or more begins in a data file: at a page, so that a runtime can map it (onnx.proto)."""

_SMALL_ALIGNMENT_BYTES: Final = 64

Pieces = Iterable[bytes | memoryview]


def model_files(model: ModelProto, new: Mapping[str, NewTensor], target: Path, *, apart: bool) -> dict[Path, Content]:
    """What to write for ``model``, with its ``new`` initializers by name: the file at ``target``, and one beside it.

    Large tensors go into ``NAME.data`` where they are to be ``apart``, or where one file would pass what protobuf can
    read. The same model gives the same bytes. Raises InputError where the model passes the limit without them.
    """
    tensors = [_Tensor.of(tensor, new.get(tensor.name)) for tensor in model.graph.initializer]
    around, graph = _without_initializers(model)
    parts = [_inside(tensor) for tensor in tensors]
    contents: dict[Path, Content] = {}
    if apart or _size(around, graph, parts) > PROTOBUF_LIMIT_BYTES:
        data = _DataFile(_data_name(target))
        parts = [data.take(tensor) if tensor.may_be_apart else _inside(tensor) for tensor in tensors]
        contents |= {target.with_name(data.name): data.write} if data.places else {}
    if _size(around, graph, parts) > PROTOBUF_LIMIT_BYTES:
        raise InputError(
            "the folded model passes 2 GB, the limit of one ONNX file, even without its large tensors",
            where="what lies in attributes, subgraphs and functions stays in the model",
        )
    return contents | {target: partial(_write_model, around, graph, parts)}


@dataclass(frozen=True, eq=False)
class _Tensor:
    """An initializer: its message without the raw data, and the ``length`` bytes of that, which ``load`` gives.

    ``length`` is None where the message has the values in another form.
    """

    message: TensorProto
    length: int | None
    load: Callable[[], Pieces]
    is_new: bool = False

    @classmethod
    def of(cls, tensor: TensorProto, new: NewTensor | None) -> _Tensor:
        """An initializer, with its bytes from where they come: computed, in a file, or in itself."""
        message = TensorProto()
        message.CopyFrom(tensor)
        if new is not None:
            return cls(message, new.length, new.pieces, is_new=True)
        reference = Reference.of(message)
        if reference is not None:
            drop_reference(message)
            return cls(message, reference.length, lambda: reference.pieces(tensor.name))
        if not message.HasField("raw_data"):
            return cls(message, None, tuple)
        values = message.raw_data
        message.ClearField("raw_data")
        return cls(message, len(values), lambda: (values,))

    @property
    def may_be_apart(self) -> bool:
        """Whether it goes into a data file where there is one: a layer's new weight and bias, and what is large."""
        return self.length is not None and (self.is_new or self.length >= APART_FROM_BYTES)


@dataclass(frozen=True, eq=False)
class _Part:
    """What an initializer is in the model's file: ``head``, then the ``length`` bytes that ``load`` gives."""

    head: bytes
    length: int = 0
    load: Callable[[], Pieces] = tuple


def _inside(tensor: _Tensor) -> _Part:
    """A tensor whose values lie in the model."""
    message = tensor.message.SerializeToString(deterministic=True)
    if tensor.length is None:
        return _Part(framed(GraphProto.INITIALIZER_FIELD_NUMBER, len(message)) + message)
    message += framed(TensorProto.RAW_DATA_FIELD_NUMBER, tensor.length)
    head = framed(GraphProto.INITIALIZER_FIELD_NUMBER, len(message) + tensor.length) + message
    return _Part(head, tensor.length, tensor.load)


class _DataFile:
    """A file of external data, as it grows."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.places: list[tuple[int, _Tensor]] = []
        """Where each tensor begins."""
        self._end = 0

    def take(self, tensor: _Tensor) -> _Part:
        """Put a tensor behind the others; what stays in the model of it."""
        length = tensor.length or 0
        offset = self._end + -self._end % (PAGE_BYTES if length >= PAGE_BYTES else _SMALL_ALIGNMENT_BYTES)
        self.places.append((offset, tensor))
        self._end = offset + length
        message = TensorProto()
        message.CopyFrom(tensor.message)
        message.data_location = TensorProto.EXTERNAL
        for key, value in {"location": self.name, "offset": str(offset), "length": str(length)}.items():
            message.external_data.add(key=key, value=value)
        content = message.SerializeToString(deterministic=True)
        return _Part(framed(GraphProto.INITIALIZER_FIELD_NUMBER, len(content)) + content)

    def write(self, stream: SupportsWrite[bytes | memoryview]) -> None:
        """Write the tensors, with zeros between."""
        position = 0
        for offset, tensor in self.places:
            stream.write(bytes(offset - position))
            _write_all(tensor.load(), stream)
            position = offset + (tensor.length or 0)


def _data_name(target: Path) -> str:
    """``NAME.data``. UsageError where the name is no text, which the model would have to refer to."""
    name = f"{target.stem}.data" if target.suffix != ".data" else f"{target.name}.data"
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise UsageError(
            f"{printable(str(target))} is no text, and a model cannot refer to external data of such a name",
            remedy="choose another name for the output",
        ) from error
    return name


def _without_initializers(model: ModelProto) -> tuple[bytes, bytes]:
    """The model without its graph, and the graph without its initializers, serialised."""
    rest = ModelProto()
    rest.CopyFrom(model)
    rest.graph.ClearField("initializer")
    graph = rest.graph.SerializeToString(deterministic=True)
    rest.ClearField("graph")
    return rest.SerializeToString(deterministic=True), graph


def _graph_size(graph: bytes, parts: Sequence[_Part]) -> int:
    return len(graph) + sum(len(part.head) + part.length for part in parts)


def _size(around: bytes, graph: bytes, parts: Sequence[_Part]) -> int:
    """The bytes of the model's file."""
    graph_bytes = _graph_size(graph, parts)
    return len(around) + len(framed(ModelProto.GRAPH_FIELD_NUMBER, graph_bytes)) + graph_bytes


def _write_model(
    around: bytes, graph: bytes, parts: Sequence[_Part], stream: SupportsWrite[bytes | memoryview]
) -> None:
    stream.write(around + framed(ModelProto.GRAPH_FIELD_NUMBER, _graph_size(graph, parts)))
    stream.write(graph)
    for part in parts:
        stream.write(part.head)
        _write_all(part.load(), stream)


def _write_all(pieces: Pieces, stream: SupportsWrite[bytes | memoryview]) -> None:
    for piece in pieces:
        stream.write(piece)
