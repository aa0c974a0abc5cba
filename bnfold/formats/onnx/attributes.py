"""Attributes as the standard declares them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Final

from onnx import AttributeProto, NodeProto, defs


def has_attributes_of_its_types(node: NodeProto, opset: int) -> bool:
    """Whether each attribute of a standard operator is of the type that it declares at this opset, and has its value.

    Inside a function an attribute may have none: the callers say what it is.
    """
    return all(not item.ref_attr_name and _is_of_its_type(item, node.op_type, opset) for item in node.attribute)


def _is_of_its_type(attribute: AttributeProto, operator: str, opset: int) -> bool:
    """The names that most models use are known without the standard's schemas, which take 10 ms to load."""
    if attribute.type == EVERYWHERE.get(attribute.name):
        return True
    return attribute.type == _declared(operator, opset).get(attribute.name, attribute.type)


@cache
def _declared(operator: str, opset: int) -> Mapping[str, int]:
    """The types of an operator's attributes, by name; none where onnx does not know the operator."""
    try:
        schema = defs.get_schema(operator, opset, "")
    except defs.SchemaError:
        return {}
    return {name: TYPES[item.type] for name, item in schema.attributes.items() if item.type in TYPES}


TYPES = {
    defs.OpSchema.AttrType.FLOAT: AttributeProto.FLOAT,
    defs.OpSchema.AttrType.INT: AttributeProto.INT,
    defs.OpSchema.AttrType.STRING: AttributeProto.STRING,
    defs.OpSchema.AttrType.TENSOR: AttributeProto.TENSOR,
    defs.OpSchema.AttrType.FLOATS: AttributeProto.FLOATS,
    defs.OpSchema.AttrType.INTS: AttributeProto.INTS,
    defs.OpSchema.AttrType.STRINGS: AttributeProto.STRINGS,
}
"""Of those that the table of operators reads."""

EVERYWHERE: Final = {
    "allowzero": AttributeProto.INT,
    "alpha": AttributeProto.FLOAT,
    "auto_pad": AttributeProto.STRING,
    "axes": AttributeProto.INTS,
    "axis": AttributeProto.INT,
    "beta": AttributeProto.FLOAT,
    "ceil_mode": AttributeProto.INT,
    "count_include_pad": AttributeProto.INT,
    "dilations": AttributeProto.INTS,
    "epsilon": AttributeProto.FLOAT,
    "group": AttributeProto.INT,
    "keepdims": AttributeProto.INT,
    "kernel_shape": AttributeProto.INTS,
    "mode": AttributeProto.STRING,
    "momentum": AttributeProto.FLOAT,
    "output_padding": AttributeProto.INTS,
    "output_shape": AttributeProto.INTS,
    "pads": AttributeProto.INTS,
    "perm": AttributeProto.INTS,
    "spatial": AttributeProto.INT,
    "storage_order": AttributeProto.INT,
    "strides": AttributeProto.INTS,
    "training_mode": AttributeProto.INT,
    "transA": AttributeProto.INT,
    "transB": AttributeProto.INT,
}
"""Attributes that are of one type in every operator that declares them, at every opset."""
