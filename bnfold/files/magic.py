"""Forms of files that carry no mark at their beginning, judged by what a reader of them would need."""

from __future__ import annotations

import codecs
from typing import Final

_VARINT, _EIGHT_BYTES, _LENGTH, _FOUR_BYTES = 0, 1, 2, 5

# onnx.proto, message ModelProto: field number -> wire type.
_MODEL_FIELDS: Final = {
    1: _VARINT,  # ir_version
    2: _LENGTH,  # producer_name
    3: _LENGTH,  # producer_version
    4: _LENGTH,  # domain
    5: _VARINT,  # model_version
    6: _LENGTH,  # doc_string
    7: _LENGTH,  # graph
    8: _LENGTH,  # opset_import
    14: _LENGTH,  # metadata_props
    20: _LENGTH,  # training_info
    25: _LENGTH,  # functions
    26: _LENGTH,  # configuration
}
_GRAPH: Final = 7
_FURTHEST_IR_VERSION: Final = 1000

_SAFETENSORS_HEADER_LIMIT: Final = 100_000_000
"""The longest header that the safetensors library itself accepts, in bytes."""


def looks_like_html(head: bytes) -> bool:
    """Whether a web page begins here, as browsers would decide."""
    start = head.removeprefix(codecs.BOM_UTF8).lstrip()[:15].lower()
    return start.startswith((b"<!doctype html", b"<html", b"<head", b"<body"))


def looks_like_safetensors(head: bytes, size: int) -> bool:
    """The header's length, 8 bytes little-endian, then a JSON object of that length, within ``size`` bytes."""
    length = int.from_bytes(head[:8], "little")
    return head[8:9] == b"{" and length <= min(size - 8, _SAFETENSORS_HEADER_LIMIT)


def looks_like_shard_index(head: bytes) -> bool:
    """A JSON object with a ``weight_map``, which says in which file each tensor is."""
    return head.lstrip()[:1] == b"{" and b'"weight_map"' in head and looks_like_text(head)


def looks_like_text(head: bytes) -> bool:
    """UTF-8 without control characters; a character cut off at the end of ``head`` does no harm."""
    try:
        text = codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        return False
    return not any(character < " " and character not in "\t\n\r\f" for character in text)


def looks_like_onnx(head: bytes) -> bool:
    """Whether the first protobuf fields are those of a ModelProto, as far as the graph or the end of ``head``.

    A field that is unknown (a later version of ONNX) is stepped over, but not as the first: any file of random bytes
    begins with some field.
    """
    position, first = 0, True
    while position < len(head):
        tag, position = _varint(head, position)
        number, wire_type = tag >> 3, tag & 7
        known = number in _MODEL_FIELDS
        if number == 0 or (first and not known) or (known and _MODEL_FIELDS[number] != wire_type):
            return False
        if number == _GRAPH:
            return True
        value, position = _skip(head, position, wire_type)
        if position < 0 or (number == 1 and not 0 < value < _FURTHEST_IR_VERSION):
            return False
        first = False
    return not first


def _skip(data: bytes, position: int, wire_type: int) -> tuple[int, int]:
    """The field's number (a varint or a length) and the position after the field; -1 for what is no field."""
    if wire_type == _VARINT:
        return _varint(data, position)
    if wire_type == _LENGTH:
        length, position = _varint(data, position)
        return length, position + length
    if wire_type in {_EIGHT_BYTES, _FOUR_BYTES}:
        return 0, position + (8 if wire_type == _EIGHT_BYTES else 4)
    return 0, -1


def _varint(data: bytes, position: int) -> tuple[int, int]:
    """A base-128 number, least significant group first, and the position after it."""
    value = 0
    for shift, byte in enumerate(data[position : position + 10]):
        value |= (byte & 0x7F) << (7 * shift)
        if byte < 0x80:  # noqa: PLR2004 - the continuation bit of a varint
            return value, position + shift + 1
    return value, len(data)
