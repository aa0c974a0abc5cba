"""Reading a model's file: everything is parsed but the bytes of large initializers, which become references."""

from __future__ import annotations

import mmap
from pathlib import Path
from typing import Final

from google.protobuf.message import DecodeError
from onnx import GraphProto, ModelProto, TensorProto

from bnfold.errors import InputError
from bnfold.formats.onnx.references import REFERENCED_FROM_BYTES, Reference, state_of
from bnfold.formats.onnx.texts import require_texts
from bnfold.formats.onnx.wire import LENGTH, Field, MalformedError, fields

_GRAPH: Final = ModelProto.GRAPH_FIELD_NUMBER
_INITIALIZER: Final = GraphProto.INITIALIZER_FIELD_NUMBER
_RAW_DATA: Final = TensorProto.RAW_DATA_FIELD_NUMBER
_GET_IT_AGAIN: Final = "get the file again, or export the model again"


def read_model(path: Path) -> ModelProto:
    """The model at ``path``. Raises InputError where there is none."""
    try:
        with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
            model = _Reader(data, path.absolute(), state_of(stream.fileno())).model()
    except (DecodeError, ValueError) as error:  # ValueError: mmap's word for an empty file
        raise InputError("the ONNX file is corrupt or cut short", where=str(path), remedy=_GET_IT_AGAIN) from error
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", where=str(path)) from error
    if not model.HasField("graph"):
        raise InputError("the ONNX file holds no graph", where=str(path), remedy=_GET_IT_AGAIN)
    require_texts(model, where=str(path))
    return model


class _Reader:
    """A file's bytes, and how references call the file.

    The pieces between large tensors are merged one after the other: to protobuf, a message in pieces is the message.
    """

    def __init__(self, data: mmap.mmap, file: Path, state: str) -> None:
        self.data = data
        self.file = file
        self.state = state

    def model(self) -> ModelProto:
        """The whole model. What our eyes cannot make sense of, protobuf judges."""
        model = ModelProto()
        try:
            for field in fields(self.data, 0, len(self.data)):
                if field.number == _GRAPH and field.wire_type == LENGTH:
                    model.graph.SetInParent()
                    self.add_graph(model.graph, field)
                else:
                    model.MergeFromString(self.data[field.start : field.end])
        except MalformedError:
            model.ParseFromString(self.data[:])
        return model

    def add_graph(self, graph: GraphProto, part: Field) -> None:
        """Merge the graph, with references for its large initializers, in their places among the others."""
        done = part.value
        for field in fields(self.data, part.value, part.end):
            raw_data = self.large_raw_data(field)
            if raw_data is None:
                continue
            graph.MergeFromString(self.data[done : field.start])
            self.add_tensor(graph.initializer.add(), field, raw_data)
            done = field.end
        graph.MergeFromString(self.data[done : part.end])

    def large_raw_data(self, field: Field) -> Field | None:
        """The bytes of an initializer that is worth a reference."""
        if field.number != _INITIALIZER or field.wire_type != LENGTH or field.end - field.value < REFERENCED_FROM_BYTES:
            return None
        found = [item for item in fields(self.data, field.value, field.end) if item.number == _RAW_DATA]
        return found[0] if len(found) == 1 and found[0].wire_type == LENGTH else None

    def add_tensor(self, tensor: TensorProto, field: Field, raw_data: Field) -> None:
        """Merge what stands around the bytes, and refer to them if they are what the rest says."""
        tensor.MergeFromString(self.data[field.value : raw_data.start])
        tensor.MergeFromString(self.data[raw_data.end : field.end])
        reference = Reference(self.file, raw_data.value, raw_data.end - raw_data.value, self.state)
        if tensor.data_location != TensorProto.EXTERNAL and reference.fits(tensor):
            reference.put_into(tensor)
        else:
            tensor.raw_data = self.data[raw_data.value : raw_data.end]
