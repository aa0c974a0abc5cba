"""An ONNX model in bnfold's hands: load, view, apply, save."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Self

from onnx import ModelProto

from bnfold.core.graph import GraphView
from bnfold.core.verdict import Plan
from bnfold.errors import UsageError
from bnfold.files.writing import Content, copy_of, same_file
from bnfold.formats.onnx.edits import apply_plan
from bnfold.formats.onnx.external import find_external_data
from bnfold.formats.onnx.reading import read_model
from bnfold.formats.onnx.references import embed
from bnfold.formats.onnx.scopes import ONNX_DOMAINS, scopes_of
from bnfold.formats.onnx.tensors import NewTensor
from bnfold.formats.onnx.texts import require_texts
from bnfold.formats.onnx.view import OnnxView, view_of
from bnfold.formats.onnx.writing import model_files

if TYPE_CHECKING:
    from collections.abc import Iterable


class OnnxModel:
    """A model that bnfold owns: ``apply`` edits its protobuf in place, so that no second copy lives in memory."""

    format = "onnx"

    def __init__(
        self, proto: ModelProto, *, freeze: bool = False, source: Path | None = None, external: tuple[Path, ...] = ()
    ) -> None:
        self.proto = proto
        self.freeze = freeze
        self.source = source
        """The file that it was loaded from."""
        self.external = external
        """The files of external data that its tensors lie in."""
        self._is_changed = False
        self._new: dict[str, NewTensor] = {}
        """The new initializers, by name."""

    @classmethod
    def load(cls, path: Path, *, freeze: bool = False) -> Self:
        """Read a file; InputError where it is no model, UnsafeError where its external data lies elsewhere."""
        proto = read_model(path)
        return cls(proto, freeze=freeze, source=path, external=find_external_data(proto, path))

    @classmethod
    def parse(cls, content: bytes) -> Self:
        """The model in the bytes of a file that another program has just made."""
        return cls(ModelProto.FromString(content))

    @classmethod
    def copy_of(cls, proto: ModelProto, *, freeze: bool = False) -> Self:
        """A model around a copy of ``proto``; InputError where its names are no texts."""
        require_texts(proto)
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
                tensor.raw_data = b"".join(self._new[tensor.name].pieces())
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
        return ()

    @property
    def node_count(self) -> int:
        """The number of operators, those in subgraphs included."""
        return sum(len(scope.graph.node) for scope in scopes_of(self.proto))

    @property
    def lacking_outputs(self) -> list[str]:
        """The batch norms, by a name for people, that list an output without a name."""
        nodes = (node for scope in scopes_of(self.proto) for node in scope.graph.node)
        return [
            node.name or node.output[0]
            for node in nodes
            if node.op_type == "BatchNormalization" and node.domain in ONNX_DOMAINS and "" in node.output[1:]
        ]

    def apply(self, plan: Plan) -> None:
        """Fold: edit the protobuf as ``plan``, made from ``view``, says. Once."""
        self._new = apply_plan(self.proto, self._onnx_view, plan)
        self._is_changed = bool(plan.edits or plan.removals)

    def take_in(self, new: dict[str, NewTensor]) -> None:
        """The protobuf was edited: these are the values, by name, of initializers that have none yet."""
        self._new, self._is_changed = new, True

    def metadata(self, key: str) -> str | None:
        """What the model says of itself under ``key``."""
        return {item.key: item.value for item in self.proto.metadata_props}.get(key)

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
        """The model, and ``NAME.data`` where the source has external data or one file would be too large.

        As long as nothing is folded: copies of the source's files, external data under the names that it has there.
        """
        if self.source is not None and not self._is_changed:
            return _copies(self.source, self.external, target)
        return model_files(self.proto, self._new, target, apart=bool(self.external))


def _copies(source: Path, external: Iterable[Path], target: Path) -> dict[Path, Content]:
    """Copies of a model and its external data, which in the source's own folder is there already."""
    beside = {target.parent / file.relative_to(source.parent): file for file in external}
    if target in beside:
        raise UsageError(f"{target} is the name of the model's external data", remedy="choose another output")
    contents = {path: copy_of(file) for path, file in beside.items() if not same_file(path, file)}
    return contents | {target: copy_of(source)}
