"""Inner values of two ONNX models that ought to be the same, and models that give them as outputs."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

from onnx import GraphProto, ModelProto, ValueInfoProto

from bnfold.core.graph import OpKind
from bnfold.formats.onnx.model import OnnxModel
from bnfold.formats.onnx.writing import model_files

if TYPE_CHECKING:
    from bnfold.files.writing import Content


def comparable_values(original: OnnxModel, folded: OnnxModel) -> list[str]:
    """The values of the main graph that no fold changes and both models compute under one name, in graph order.

    No affine crosses an operator that is OPAQUE: what it reads and what it gives are the same after folding.
    """
    view = original.view
    unchanged: set[str | None] = set()
    for node in view.nodes:
        if node.kind is OpKind.OPAQUE:
            unchanged.update(node.inputs, node.outputs)
    computed = set(_computed(folded.proto.graph))
    return [name for name in _computed(original.proto.graph) if name in unchanged and name in computed]


def watched_files(model: OnnxModel, values: Collection[str], target: Path) -> dict[Path, Content]:
    """What to write for ``model`` with ``values`` as its outputs. Their types are left to the runtime to infer."""
    watched = ModelProto()
    watched.CopyFrom(model.proto)
    del watched.graph.output[:]
    watched.graph.output.extend(ValueInfoProto(name=name) for name in values)
    return model_files(watched, {}, target, apart=bool(model.external))


def _computed(graph: GraphProto) -> list[str]:
    """The values that the operators of a graph give, in order; a Constant computes nothing."""
    return [name for node in graph.node if node.op_type != "Constant" for name in node.output if name]
