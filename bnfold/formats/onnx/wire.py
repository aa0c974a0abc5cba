"""Protobuf's wire format, as far as it takes to find a message's fields, and to frame new ones.

https://protobuf.dev/programming-guides/encoding/
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from typing import NamedTuple

VARINT, EIGHT_BYTES, LENGTH, FOUR_BYTES = 0, 1, 2, 5
_FIXED = {EIGHT_BYTES: 8, FOUR_BYTES: 4}


class MalformedError(ValueError):
    """This is no message, or of a form that has not been written for twenty years (groups)."""


class Field(NamedTuple):
    """One field of a message: its tag is at ``start``, its value (the contents, for a length) from ``value`` on."""

    number: int
    wire_type: int
    start: int
    value: int
    end: int


def fields(data: mmap.mmap, start: int, end: int) -> Iterator[Field]:
    """The fields of the message between two positions, in order. Raises MalformedError where it is none."""
    position = start
    while position < end:
        tag, value = _varint(data, position, end)
        wire_type = tag & 7
        if wire_type == VARINT:
            _, after = _varint(data, value, end)
        elif wire_type == LENGTH:
            length, value = _varint(data, value, end)
            after = value + length
        elif wire_type in _FIXED:
            after = value + _FIXED[wire_type]
        else:
            raise MalformedError(f"wire type {wire_type}")
        if after > end:
            raise MalformedError("a field is longer than its message")
        yield Field(tag >> 3, wire_type, position, value, after)
        position = after


def framed(number: int, length: int) -> bytes:
    """What stands before the contents of a field of this length."""
    return _varint_bytes(number << 3 | LENGTH) + _varint_bytes(length)


def _varint(data: mmap.mmap, position: int, end: int) -> tuple[int, int]:
    """A base-128 number, least significant group first, and the position after it."""
    value = 0
    for shift, byte in enumerate(data[position : min(position + 10, end)]):
        value |= (byte & 0x7F) << (7 * shift)
        if byte < 0x80:  # noqa: PLR2004 - the continuation bit of a varint
            return value, position + shift + 1
    raise MalformedError("a number does not end")


def _varint_bytes(value: int) -> bytes:
    groups = bytearray()
    while value > 0x7F:  # noqa: PLR2004 - seven bits a group
        groups.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*groups, value])
