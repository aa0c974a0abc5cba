"""An ONNX model in bnfold's hands: load, view, apply, save."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Self

from onnx import ModelProto

from bnfold.core.graph import GraphView
from bnfold.core.verdict import Plan
from bnfold.formats.onnx.edits import apply_plan
from bnfold.formats.onnx.external import find_external_data
from bnfold.formats.onnx.reading import read_model
from bnfold.formats.onnx.references import embed
from bnfold.formats.onnx.scopes import scopes_of
from bnfold.formats.onnx.tensors import NewTensor
from bnfold.formats.onnx.view import OnnxView, view_of
from bnfold.formats.onnx.writing import write_model

if TYPE_CHECKING:
    from _typeshed import SupportsWrite

    from bnfold.files.writing import Content


class OnnxModel:
    """A model that bnfold owns: ``apply`` edits its protobuf in place, so that no second copy lives in memory."""

    format = "onnx"

    def __init__(self, proto: ModelProto, *, freeze: bool = False, external: tuple[Path, ...] = ()) -> None:
        self.proto = proto
        self.freeze = freeze
        self.external = external
        """The files of external data that its tensors lie in; they are written into the model's own."""
        self._new: dict[str, NewTensor] = {}
        """The new initializers, by name."""

    @classmethod
    def load(cls, path: Path, *, freeze: bool = False) -> Self:
        """Read a file; InputError where it is no model, UnsafeError where its external data lies elsewhere."""
        proto = read_model(path)
        return cls(proto, freeze=freeze, external=find_external_data(proto, path))

    @classmethod
    def copy_of(cls, proto: ModelProto, *, freeze: bool = False) -> Self:
        """A model around a copy of ``proto``."""
        copy = ModelProto()
        copy.CopyFrom(proto)
        return cls(copy, freeze=freeze)

    @property
    def folded(self) -> ModelProto:
        """The whole model in memory, as it is now."""
        whole = ModelProto()
        whole.CopyFrom(self.proto)
        for tensor in whole.graph.initializer:
            embed(tensor)
            if tensor.name in self._new:
                tensor.raw_data = bytes(self._new[tensor.name].read())
        return whole

    @cached_property
    def _onnx_view(self) -> OnnxView:
        return view_of(self.proto, freeze=self.freeze)

    @property
    def view(self) -> GraphView:
        """The graph view of the model as it was given."""
        return self._onnx_view.graph

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should know about this model beyond the verdicts."""
        if not self.external:
            return ()
        return (f"external data ({', '.join(path.name for path in self.external)}) is written into the model file",)

    @property
    def node_count(self) -> int:
        """The number of operators, those in subgraphs included."""
        return sum(len(scope.graph.node) for scope in scopes_of(self.proto))

    def apply(self, plan: Plan) -> None:
        """Fold: edit the protobuf as ``plan``, made from ``view``, says. Once."""
        self._new = apply_plan(self.proto, self._onnx_view, plan)

    def describe(self, properties: dict[str, str]) -> None:
        """Add entries to the model's metadata, replacing those of the same name."""
        for key, value in properties.items():
            entry = next((item for item in self.proto.metadata_props if item.key == key), None)
            if entry is None:
                entry = self.proto.metadata_props.add(key=key)
            entry.value = value

    @property
    def companions(self) -> tuple[OnnxModel, ...]:
        """A file holds one model."""
        return ()

    def files(self, target: Path) -> dict[Path, Content]:
        """One file: tensors of any size are written into it."""
        return {target: self.write}

    def write(self, stream: SupportsWrite[bytes | memoryview]) -> None:
        """Write the model; the same model gives the same bytes."""
        write_model(self.proto, self._new, stream)


def metadata_of(path: Path) -> dict[str, str]:
    """The metadata entries of an ONNX file."""
    return {item.key: item.value for item in OnnxModel.load(path).proto.metadata_props}
