"""What option values look like: each kind of value is parsed, and refused, in one place.

click calls these functions as the ``type`` of an option and adds the option's name to what they refuse.
"""

from __future__ import annotations

import math
import re
from pathlib import Path, PurePath
from typing import Any, Final

import click

from bnfold.cli.result import FILE_FORMS
from bnfold.records import InputSpec

DTYPES: Final = {
    "f16": "float16",
    "bf16": "bfloat16",
    "f32": "float32",
    "f64": "float64",
    "i8": "int8",
    "i16": "int16",
    "i32": "int32",
    "i64": "int64",
    "u8": "uint8",
    "u16": "uint16",
    "u32": "uint32",
    "u64": "uint64",
    "bool": "bool",
}
"""The short names of dtypes; the long ones, which are NumPy's, are understood too."""

file_path: Final = click.Path(path_type=Path, readable=False)
"""A file's name; whether it can be read is for its reader to find out, who has an exit code for it."""

# A name may contain everything, ":" and "=" included ("input:0" is common).
_INPUT_SPEC: Final = re.compile(r"(?:(?P<name>.+)=)?(?P<shape>[0-9]+(?:x[0-9]+)*)(?::(?P<dtype>[a-z0-9]+))?")


class FiniteRange(click.FloatRange):
    """A number between limits; NaN, which no limit stops, and infinities are none."""

    name = "number"  # what click says that other text is not; its own word is "float range"

    def convert(
        self,
        value: Any,  # noqa: ANN401 - click's
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> float:
        """The number. Raises BadParameter, as click's own types do."""
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value!r} is no finite number.", param, ctx)
        return number


def input_spec(text: str) -> InputSpec:
    """``[NAME=]1x3x224x224[:f32]``, as an InputSpec."""
    match = _INPUT_SPEC.fullmatch(text)
    if match is None:
        raise click.BadParameter(f"'{text}': expected a shape such as 1x3x224x224, NAME=1x10 or 1x10:i64.")
    shape = tuple(int(size) for size in match["shape"].split("x"))
    if 0 in shape:
        raise click.BadParameter(f"'{text}': every size is at least 1.")
    dtype = match["dtype"] or "f32"
    if dtype not in DTYPES and dtype not in DTYPES.values():
        raise click.BadParameter(f"'{text}': the dtype is one of {', '.join(DTYPES)}.")
    return InputSpec(shape=shape, dtype=DTYPES.get(dtype, dtype), name=match["name"])


def factory(text: str) -> str:
    """``pkg.module:factory``, unchanged; importing it is a matter of the loader."""
    module, colon, attribute = text.partition(":")
    if not colon or not all(name.isidentifier() for name in (*module.split("."), *attribute.split("."))):
        raise click.BadParameter(f"'{text}': expected pkg.module:factory, as you would import it.")
    return text


def tolerance(text: str) -> tuple[str, float]:
    """``[OUTPUT:]X``, as the output's name (empty for all outputs; it may contain colons) and X."""
    name, _, number = text.rpartition(":")
    try:
        value = float(number)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value >= 0):
        raise click.BadParameter(f"'{text}': expected a number such as 1e-5, or OUTPUT:1e-5.")
    return name, value


def finite(text: str) -> float:
    """Any number that FiniteRange lets pass: click's help names the limits of a range, and this one has none."""
    return FiniteRange().convert(text, None, None)


def sizes(text: str) -> tuple[int, ...]:
    """``1,32,1000``, as integers of at least 1, each once, in the order given."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdecimal() and int(part) > 0 for part in parts):
        raise click.BadParameter(f"'{text}': expected whole numbers such as 1,32,1000.")
    return tuple(dict.fromkeys(int(part) for part in parts))


def report_file(text: str) -> str:
    """A file's name, unchanged; its suffix says in which form the report is written."""
    if PurePath(text).suffix.lower() not in FILE_FORMS:
        *others, last = FILE_FORMS
        known = f"{', '.join(others)} or {last}"
        raise click.BadParameter(f"'{text}': the name must end in {known}, which says the form.")
    return text
