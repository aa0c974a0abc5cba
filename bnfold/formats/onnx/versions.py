"""Versions of the standard's operators: whether one means the same at two opsets."""

from __future__ import annotations

from functools import cache

from onnx import defs


@cache
def is_same_operator(operator: str, one: int, other: int) -> bool:
    """Whether the standard did not change an operator between two opsets; False where onnx does not know it."""
    if max(one, other) > defs.onnx_opset_version():
        return False
    try:
        versions = {defs.get_schema(operator, opset, "").since_version for opset in (one, other)}
    except defs.SchemaError:
        return False
    return len(versions) == 1
