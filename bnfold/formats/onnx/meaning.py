"""An operator as a row of the table sees it, and what the row says of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from onnx import NodeProto, helper

from bnfold.core.graph import Constant, Lock, OpKind, Shape, Value
from bnfold.core.reason import Reason
from bnfold.core.traits import Traits
from bnfold.formats.onnx.shapes import TensorType


@dataclass(frozen=True, eq=False)
class Operator:
    """An operator as a row sees it: its attributes, the opset of its domain, and what is known of its values."""

    proto: NodeProto
    opset: int
    inputs: tuple[str | None, ...]
    outputs: tuple[str, ...]
    value_of: Callable[[str], Value | None]
    type_of: Callable[[str], TensorType | None]

    @property
    def attributes(self) -> dict[str, Any]:
        """Attributes by name, as Python values; texts as str, where what is no UTF-8 means nothing."""
        values = {item.name: helper.get_attribute_value(item) for item in self.proto.attribute}
        return {
            name: value.decode(errors="replace") if isinstance(value, bytes) else value
            for name, value in values.items()
        }

    def constant(self, slot: int) -> Constant | None:
        """The constant on an input slot, if it is one."""
        value = self.value(slot)
        return value.constant if value else None

    def integers(self, slot: int) -> tuple[int, ...] | None:
        """The constant integers on an input slot."""
        constant = self.constant(slot)
        return None if constant is None else tuple(int(value) for value in constant.load().reshape(-1))

    def has_input(self, slot: int) -> bool:
        """Whether an input is given at all."""
        return slot < len(self.inputs) and self.inputs[slot] is not None

    def value(self, slot: int) -> Value | None:
        """What is known of the value on an input slot."""
        return self.value_of(self.inputs[slot] or "") if slot < len(self.inputs) else None

    def shape(self, slot: int = 0) -> Shape | None:
        """The shape of an input, as far as known."""
        return self.shape_of(self.inputs[slot] or "") if slot < len(self.inputs) else None

    def shape_of(self, value: str) -> Shape | None:
        """The shape of a value, as far as known."""
        known = self.type_of(value)
        return known.shape if known else None

    def padded_inputs(self, count: int) -> tuple[str | None, ...]:
        """The inputs, with None for absent ones up to ``count``."""
        return self.inputs + (None,) * (count - len(self.inputs))


@dataclass(frozen=True)
class Meaning:
    """What a row says of an operator."""

    kind: OpKind
    inputs: tuple[str | None, ...]
    traits: Traits = None
    lock: Lock | None = None


Row = Callable[[Operator], Meaning]


def opaque(op: Operator, why: str = "") -> Meaning:
    """Any other operator is left alone; ``why`` one of a known name is."""
    return Meaning(OpKind.OPAQUE, op.inputs, lock=Lock(Reason.NO_LINEAR_LAYER, why) if why else None)
