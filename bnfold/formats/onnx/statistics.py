"""New statistics for the batch norms of an ONNX model: which have none, what goes into each, and storing them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Literal

from onnx import ModelProto, NodeProto, ValueInfoProto, helper

from bnfold.core.depth import depths
from bnfold.core.graph import Node
from bnfold.core.reason import Reason
from bnfold.core.rounding import LARGEST, F64Array, rounded
from bnfold.core.traits import BatchNormTraits
from bnfold.errors import InputError
from bnfold.formats.onnx.cutting import copy_needed, reads_of
from bnfold.formats.onnx.model import OnnxModel
from bnfold.formats.onnx.operators import IS_TEST_UNTIL, TRAINING_MODE_FROM
from bnfold.formats.onnx.patch import Patch
from bnfold.formats.onnx.places import Place
from bnfold.formats.onnx.scopes import ONNX_DOMAINS, OVERRIDABLE_FROM_IR, Scope
from bnfold.formats.onnx.shapes import TensorType, inferred_types
from bnfold.formats.onnx.spelled_out import spelled_out, unread
from bnfold.formats.onnx.tensors import NewTensor
from bnfold.formats.onnx.view import view_of
from bnfold.formats.onnx.writing import model_files
from bnfold.formats.statistics import StoredStatistics, require_fitting

if TYPE_CHECKING:
    from pathlib import Path

    from bnfold.files.writing import Content

MEAN, VARIANCE = 3, 4
"""The input slots of a BatchNormalization's statistics."""


class OnnxStatistics:
    """The batch norms of a model that are operators, and their statistics; ``store`` edits the model in place.

    Raises InputError where a batch norm in training mode cannot be given statistics.
    """

    format: Literal["onnx"] = "onnx"

    def __init__(self, model: OnnxModel) -> None:
        self.model = model
        self._graph = model.proto.graph
        self._opset = next((item.version for item in model.proto.opset_import if item.domain in ONNX_DOMAINS), 1)
        self._view = view_of(model.proto, freeze=True)
        self._patch = Patch(model.proto, self._view.scopes, lambda value: self._view.graph.value_of(value) is not None)
        self._nodes = [node for node in self._view.graph.batch_norms if isinstance(node.traits, BatchNormTraits)]
        self.batch_norms = tuple(map(self._stored, self._nodes))
        for node, stored in zip(self._nodes, self.batch_norms, strict=True):
            if stored.is_missing:
                self._require_calibratable(node)
            self._settle_outputs(node)

    @property
    def notes(self) -> tuple[str, ...]:
        """See ``StatisticsOfModel``."""
        return self.model.notes

    def metadata(self, key: str) -> str | None:
        """See ``StatisticsOfModel``."""
        return self.model.metadata(key)

    def depths(self, chosen: Collection[int]) -> dict[int, int]:
        """See ``StatisticsOfModel``."""
        by_position = {self._place(index).positions[0]: index for index in chosen}
        found = depths(reads_of(self._graph), by_position)
        return {by_position[position]: depth for position, depth in found.items()}

    def tap(self, index: int) -> str:
        """The name of the output by which a tapped model gives what goes into a batch norm."""
        return f"{self._prefix}{index}"

    def files(self, target: Path) -> Mapping[Path, Content]:
        """What to write for the model as it is now, to run it: ``target``, and perhaps a file of data beside it."""
        return model_files(self.model.proto, self._patch.tensors, target, apart=False)

    def tapped_files(self, chosen: Collection[int], target: Path) -> Mapping[Path, Content]:
        """What to write for the model as it is now, with what goes into the ``chosen`` batch norms as its outputs.

        Nothing runs that these do not need: what lies behind them may still normalise with each batch's statistics.
        """
        proto = self.model.proto
        tapped = ModelProto(ir_version=proto.ir_version, opset_import=proto.opset_import, functions=proto.functions)
        values = {index: str(self._place(index).proto.input[0]) for index in chosen}
        copy_needed(self._graph, tapped.graph, values.values())
        for index, value in values.items():
            tapped.graph.node.append(helper.make_node("Identity", [value], [self.tap(index)]))
            tapped.graph.output.append(self._declaration(value, self.tap(index)))
        return model_files(tapped, self._patch.tensors, target, apart=False)

    def store(self, index: int, mean: F64Array, variance: F64Array) -> None:
        """See ``StatisticsOfModel``; the batch norm is in inference mode then, and has one output."""
        place = self._place(index)
        proto = place.proto
        dtype = self._dtype(self._nodes[index])
        require_fitting(self.batch_norms[index].name, dtype, mean, variance)
        spelled = self._spelled_out(self._nodes[index])
        for slot, values in ((MEAN, mean), (VARIANCE, variance)):
            old = proto.input[slot]
            wish = f"{old.removesuffix('_population')}_population"
            if not self._is_part_of_the_signature(old):
                self._patch.orphan(place.scope, [old])
            proto.input[slot] = self._patch.add_tensor(place.scope, wish, NewTensor.of(rounded(values, dtype), dtype))
        for name in proto.output[1:]:
            self._patch.forget(place.scope, name)
        del proto.output[1:]
        self._drop(place.scope, unread(self._graph, spelled))
        if self._opset <= IS_TEST_UNTIL:
            _set(proto, "is_test", 1)
        elif any(item.name == "training_mode" for item in proto.attribute):
            _set(proto, "training_mode", 0)

    def finish(self) -> None:
        """See ``StatisticsOfModel``: the tensors that nobody reads any more go."""
        self._patch.finish()
        if self._patch.tensors:
            self.model.take_in(self._patch.tensors)

    def _drop(self, scope: Scope, positions: Collection[int]) -> None:
        """Take out nodes that nobody reads any more."""
        nodes = [self._graph.node[position] for position in positions]
        self._patch.remove(scope, positions, [name for node in nodes for name in node.input])
        for name in (name for node in nodes for name in node.output):
            self._patch.forget(scope, name)

    @cached_property
    def _prefix(self) -> str:
        """What the names of taps begin with, and no name of the model's."""
        names = {name for scope in self._view.scopes for name in scope.defined}
        prefix = "tap"
        while any(name.startswith(prefix) for name in names):
            prefix += "_"
        return prefix

    @cached_property
    def _types(self) -> Mapping[str, TensorType]:
        return inferred_types(self.model.proto, self._view.scopes, freeze=True)

    def _place(self, index: int) -> Place:
        return self._view.places[self._nodes[index].index]

    def _stored(self, node: Node) -> StoredStatistics:
        graph, traits = self._view.graph, node.traits
        constants = [graph.constant(node.inputs[slot]) for slot in (MEAN, VARIANCE)]
        mean, variance = (constant.load().astype("float64") if constant else None for constant in constants)
        epsilon = traits.epsilon if isinstance(traits, BatchNormTraits) else 0.0
        missing = self._is_in_training_mode(node) or bool(self._spelled_out(node))
        left = ""
        if not missing and node.lock is not None and node.lock.reason is not Reason.STATISTICS_OUTPUTS_USED:
            left = node.lock.detail
        elif not missing and self._place_of(node) is None:
            left = f"it is inside a {'function' if self._view.places[node.index].scope.root.function else 'subgraph'}"
        elif not missing and (mean is None or variance is None):
            left = "its statistics are computed while the model runs"
        return StoredStatistics(node.label, missing, mean, variance, epsilon, left)

    def _is_in_training_mode(self, node: Node) -> bool:
        """BatchNormalization-1 to -13 trains where it has further outputs, up to -6 unless ``is_test``."""
        if isinstance(node.traits, BatchNormTraits) and node.traits.training:
            return True
        return IS_TEST_UNTIL < self._opset < TRAINING_MODE_FROM and len(node.outputs) > 1

    def _spelled_out(self, node: Node) -> frozenset[int]:
        """Where the statistics of the batch are computed beside a batch norm of the main graph."""
        place = self._place_of(node)
        if place is None or len(place.proto.input) <= VARIANCE:
            return frozenset()
        return spelled_out(self._graph, place.proto, lambda name: self._view.graph.value_of(name) is not None)

    def _place_of(self, node: Node) -> Place | None:
        """Where a node of the main graph stands; None for one of a subgraph or a function."""
        place = self._view.places.get(node.index)
        return place if place is not None and not (place.scope.parent or place.scope.function) else None

    def _require_calibratable(self, node: Node) -> None:
        """InputError where a batch norm in training mode is not in the main graph, or somebody wants more of it."""
        if node.lock is not None and node.lock.reason is not Reason.STATISTICS_OUTPUTS_USED:
            raise _refusal(node, node.lock.detail, node.lock.reason.remedy)
        if self._place_of(node) is None:
            detail = "it is inside a subgraph (If, Loop or Scan) or a function"
            raise _refusal(node, detail, "Move it out of there; onnx.inliner.inline_local_functions inlines functions.")
        read = [name for name in node.outputs[1:] if self._view.graph.readers(name) or name in self._view.graph.outputs]
        if read:
            detail = f"its further output {read[0]!r} is used, which it does not have in inference mode"
            raise _refusal(node, detail, Reason.STATISTICS_OUTPUTS_USED.remedy)

    def _settle_outputs(self, node: Node) -> None:
        """Give a batch norm all outputs in training mode, else one: onnxruntime crashes where one has no name."""
        place = self._view.places.get(node.index)
        if place is None:
            return
        given = list(place.proto.output[1:])
        del place.proto.output[1:]
        if not self._is_in_training_mode(node):
            place.proto.output.extend(given if any(given) else [])
            return
        parts = ("mean", "variance") if self._opset >= TRAINING_MODE_FROM else ("mean", "variance", "m", "v")
        names = [*given, *[""] * len(parts)]
        place.proto.output.extend(
            name or self._patch.unused(f"{node.label}_{part}") for name, part in zip(names, parts, strict=False)
        )

    def _dtype(self, node: Node) -> str:
        """In which the statistics are stored: as before, else as the scale is."""
        known = (self._view.graph.constant(node.inputs[slot]) for slot in (MEAN, VARIANCE, 1))
        return next((constant.dtype for constant in known if constant and constant.dtype in LARGEST), "float32")

    def _declaration(self, value: str, name: str) -> ValueInfoProto:
        """An output like ``value``; what onnx does not know of its type is left to the runtime to infer."""
        if value not in self._types:
            return ValueInfoProto(name=name)
        return helper.make_tensor_value_info(name, self._types[value].data_type, None)

    def _is_part_of_the_signature(self, name: str) -> bool:
        """Whether callers may give a tensor themselves, and so would miss it."""
        is_input = any(value.name == name for value in self._graph.input)
        return is_input and self.model.proto.ir_version >= OVERRIDABLE_FROM_IR


def _refusal(node: Node, detail: str, remedy: str) -> InputError:
    return InputError(f"the batch norm {node.label!r} cannot be calibrated: {detail}", remedy=remedy)


def _set(proto: NodeProto, attribute: str, value: int) -> None:
    """Give an operator an integer attribute."""
    kept = [item for item in proto.attribute if item.name != attribute]
    del proto.attribute[:]
    proto.attribute.extend([*kept, helper.make_attribute(attribute, value)])
