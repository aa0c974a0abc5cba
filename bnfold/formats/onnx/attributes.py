"""Attributes as the standard declares them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

from onnx import AttributeProto, NodeProto, defs


def has_attributes_of_its_types(node: NodeProto, opset: int) -> bool:
    """Whether each attribute of a standard operator is of the type that it declares at this opset, and has its value.

    Inside a function an attribute may have none: the callers say what it is.
    """
    declared = _declared(node.op_type, opset)
    return all(item.type == declared.get(item.name, item.type) and not item.ref_attr_name for item in node.attribute)


@cache
def _declared(operator: str, opset: int) -> Mapping[str, int]:
    """The types of an operator's attributes, by name; none where onnx does not know the operator."""
    try:
        schema = defs.get_schema(operator, opset, "")
    except defs.SchemaError:
        return {}
    return {name: _TYPES[item.type] for name, item in schema.attributes.items() if item.type in _TYPES}


_TYPES = {
    defs.OpSchema.AttrType.FLOAT: AttributeProto.FLOAT,
    defs.OpSchema.AttrType.INT: AttributeProto.INT,
    defs.OpSchema.AttrType.STRING: AttributeProto.STRING,
    defs.OpSchema.AttrType.TENSOR: AttributeProto.TENSOR,
    defs.OpSchema.AttrType.FLOATS: AttributeProto.FLOATS,
    defs.OpSchema.AttrType.INTS: AttributeProto.INTS,
    defs.OpSchema.AttrType.STRINGS: AttributeProto.STRINGS,
}
"""Of those that the table of operators reads."""
