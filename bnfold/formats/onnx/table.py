"""The table of operators: what each means to the graph view, or that nobody knows."""

from __future__ import annotations

from collections.abc import Collection

from bnfold.core.graph import Lock, OpKind
from bnfold.core.reason import Reason
from bnfold.core.traits import BatchNormTraits
from bnfold.formats.onnx import movers, operators, parts, pools
from bnfold.formats.onnx.attributes import has_attributes_of_its_types
from bnfold.formats.onnx.meaning import Meaning, Operator, opaque
from bnfold.formats.onnx.scopes import ONNX_DOMAINS

ROWS = operators.ROWS | movers.ROWS | pools.ROWS | parts.ROWS


def meaning_of(op: Operator, shadowed: Collection[str]) -> Meaning:
    """What the table says of an operator, unless a function of the model has its name (``shadowed``).

    Of other domains' operators, and of those that break the standard, nothing is known.
    """
    if op.proto.domain not in ONNX_DOMAINS:
        return opaque(op, f"what the operators of the domain {op.proto.domain!r} do is unknown")
    if op.proto.op_type in shadowed:
        return opaque(op, "a function of the model has its name")
    if any(attribute.ref_attr_name for attribute in op.proto.attribute):
        return _set_by_callers(op)
    if not op.inputs or op.inputs[0] is None or not op.outputs or not op.proto.output[0]:
        return opaque(op, "it has no input, or no first output")
    if not has_attributes_of_its_types(op.proto, op.opset):
        return opaque(op, "an attribute of it is of another type than it should be")
    return ROWS.get(op.proto.op_type, opaque)(op)


def _set_by_callers(op: Operator) -> Meaning:
    """An operator in a function that takes an attribute from each call."""
    lock = Lock(Reason.INSIDE_FUNCTION, "the callers of its function set an attribute of it")
    if op.proto.op_type == "BatchNormalization":
        return Meaning(OpKind.BATCH_NORM, op.padded_inputs(5)[:5], BatchNormTraits(epsilon=0.0), lock)
    return Meaning(OpKind.OPAQUE, op.inputs, lock=lock)
