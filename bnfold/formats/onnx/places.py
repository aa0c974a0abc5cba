"""The way back from a node of the graph view to the protobuf."""

from __future__ import annotations

from dataclasses import dataclass

from onnx import NodeProto

from bnfold.formats.onnx.scopes import Scope


@dataclass(frozen=True, eq=False)
class Place:
    """Where a node of the view stands: the graph, and the positions in it of the nodes that it is made of.

    The first position is the operator's. A second one is the Add that holds a MatMul's bias; a run of arithmetic with
    constants has one for each operator, and in ``data_slots`` which input of each is the value.
    """

    scope: Scope
    positions: tuple[int, ...]
    data_slots: tuple[int, ...] = (0,)

    @property
    def proto(self) -> NodeProto:
        """The operator."""
        proto: NodeProto = self.scope.graph.node[self.positions[0]]
        return proto

    @property
    def data(self) -> str:
        """The name of the value that a batch norm or a run works on."""
        return str(self.proto.input[self.data_slots[0]])

    @property
    def output(self) -> str:
        """The name of its result."""
        return str(self.scope.graph.node[self.positions[-1]].output[0])

    @property
    def constants(self) -> list[str]:
        """The names of its parameters."""
        protos = [self.scope.graph.node[position] for position in self.positions]
        data_slots = self.data_slots if self.bias_add is None else (*self.data_slots, 1 - self.bias_slot)
        return [
            name
            for proto, data_slot in zip(protos, data_slots, strict=True)
            for slot, name in enumerate(proto.input)
            if name and slot != data_slot
        ]

    @property
    def bias_add(self) -> NodeProto | None:
        """The Add that holds a MatMul's bias."""
        has_one = len(self.positions) > len(self.data_slots)
        return self.scope.graph.node[self.positions[1]] if has_one else None

    @property
    def bias_slot(self) -> int:
        """The input slot of the bias in the Add behind a MatMul."""
        return 1 if self.bias_add is not None and self.bias_add.input[0] == self.proto.output[0] else 0
