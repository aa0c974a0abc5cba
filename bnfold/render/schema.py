"""The JSON Schema of the reports, made from their classes: ``python -m bnfold.render.schema`` prints it.

What it prints is ``bnfold/report.schema.json``; a test holds the two together.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import types
import typing
from typing import Any, Literal, Union

from bnfold.records import SCHEMA, BenchReport, CalibrateReport, ConvertReport, InspectReport, VerifyReport

_REPORTS = (InspectReport, ConvertReport, VerifyReport, BenchReport, CalibrateReport)
_NAMES: dict[Any, Any] = {
    str: "string",
    int: "integer",
    bool: "boolean",
    float: ["number", "null"],  # NaN and infinities: JSON has no word for them
    types.NoneType: "null",
}

JsonSchema = dict[str, Any]


def report_schema() -> JsonSchema:
    """The schema of any report; ``command`` tells which one it is."""
    definitions: dict[str, JsonSchema] = {}
    reports = [_reference_to(report, definitions) for report in _REPORTS]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": SCHEMA,
        "description": "A report of bnfold. A number that is not finite is null.",
        "oneOf": reports,
        "$defs": dict(sorted(definitions.items())),
    }


def _schema_of(kind: Any, definitions: dict[str, JsonSchema]) -> JsonSchema:  # noqa: ANN401 - any annotation
    """The schema of an annotation as the records use them; dataclasses are added to ``definitions``."""
    if dataclasses.is_dataclass(kind):
        return _reference_to(kind, definitions)
    if kind in _NAMES:
        return {"type": _NAMES[kind]}
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is Literal:
        return {"enum": list(arguments)}
    if origin is tuple:
        return _array(arguments, definitions)
    if origin is dict:
        return {"type": "object", "additionalProperties": _schema_of(arguments[1], definitions)}
    if origin in {Union, types.UnionType}:
        return {"anyOf": [_schema_of(item, definitions) for item in arguments]}
    raise TypeError(f"no schema for {kind}: teach it here")


def _array(arguments: tuple[Any, ...], definitions: dict[str, JsonSchema]) -> JsonSchema:
    """Any number of one kind (``tuple[int, ...]``), or each place with a kind of its own."""
    if arguments[-1] is Ellipsis:
        return {"type": "array", "items": _schema_of(arguments[0], definitions)}
    items = [_schema_of(item, definitions) for item in arguments]
    return {"type": "array", "prefixItems": items, "minItems": len(items), "maxItems": len(items)}


def _reference_to(record: Any, definitions: dict[str, JsonSchema]) -> JsonSchema:  # noqa: ANN401 - any dataclass
    if record.__name__ not in definitions:
        definitions[record.__name__] = {}  # a promise, for records that hold each other
        hints = typing.get_type_hints(record)
        fields = {item.name: _schema_of(hints[item.name], definitions) for item in dataclasses.fields(record)}
        constants = {"schema", "command"} if record in _REPORTS else set()
        fields |= {item.name: {"const": item.default} for item in dataclasses.fields(record) if item.name in constants}
        definitions[record.__name__] = {
            "type": "object",
            "description": (record.__doc__ or "").strip().partition("\n")[0],
            "properties": fields,
            "required": list(fields),
        }
    return {"$ref": f"#/$defs/{record.__name__}"}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(report_schema(), indent=2) + "\n")
