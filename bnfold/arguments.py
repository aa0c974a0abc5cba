"""What callers of the Python API may get wrong: an argument of another type, or out of range, is told in words.

The command line judges its options while it parses them (``cli/parameters.py``).
"""

from __future__ import annotations

import math
import os
import reprlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from numbers import Integral, Real
from typing import Final

from bnfold.errors import UsageError

Check = Callable[[object], str]
"""What is expected instead of a value; empty where nothing is."""

MOST_THREADS: Final = 1024
"""onnxruntime starts as many as it is told, and 100,000 bring the machine to a halt."""


def require(arguments: Mapping[str, object], **own: Check) -> None:
    """UsageError for the first argument that cannot be; ``own`` are checks of these names for one function alone.

    Arguments whose names nobody knows are passed over: a function hands over its ``locals()``.
    """
    for keyword, value in arguments.items():
        check = own.get(keyword, CHECKS.get(keyword))
        expected = check(value) if check else ""
        if expected:
            raise UsageError(f"{keyword}={_shown(value)}: expected {expected}")


def optional(check: Check) -> Check:
    """As ``check`` has it, or None."""
    return lambda value: "" if value is None else check(value)


def a_whole_number(value: object, least: int = 0, most: int | None = None) -> str:
    """An integer between limits."""
    number = int(value) if not isinstance(value, bool) and isinstance(value, Integral) else None
    if number is not None and number >= least and (most is None or number <= most):
        return ""
    return f"a whole number from {least} on" if most is None else f"a whole number from {least} to {most}"


def a_number(value: object, least: float = -math.inf, most: float = math.inf, *, above: bool = False) -> str:
    """A finite number between limits, the lower of which it may have to be ``above``."""
    number = float(value) if not isinstance(value, bool) and isinstance(value, Real) else math.nan
    if math.isfinite(number) and least <= number <= most and not (above and number == least):
        return ""
    lower = "" if least == -math.inf else f" {'above' if above else 'from'} {least:g}{' on' * (not above)}"
    return f"a finite number{lower}" if most == math.inf else f"a number from {least:g} to {most:g}"


def a_name(value: object) -> str:
    """A text."""
    return "" if isinstance(value, str) else "a text"


def names(value: object, *, of: str, example: str) -> str:
    """A text, or several."""
    several = [value] if isinstance(value, str) else value
    is_fine = isinstance(several, Sequence | set | frozenset) and all(isinstance(name, str) for name in several)
    return "" if is_fine and several else f"{of}, or a list of such: {example}"


def pairs(value: object) -> str:
    """Texts, and not one alone."""
    is_list = isinstance(value, Sequence) and type(value) is not str
    return "" if is_list and not any(map(a_name, _items(value))) else "a list of pairs: ['conv1=bn1']"


def one_of(value: object, *known: str) -> str:
    """One of a few texts."""
    return "" if isinstance(value, str) and value in known else " or ".join(map(repr, known))


def batches(value: object) -> str:
    """How many samples at a time: a number, or several."""
    several = [value] if isinstance(value, Integral) else value
    is_fine = isinstance(several, Sequence) and several and not any(a_whole_number(size, 1) for size in several)
    return "" if is_fine else "a whole number from 1 on, or a list of such: [1, 32]"


def a_tolerance(value: object) -> str:
    """A number for all outputs, or one by name."""
    by_output = dict(value) if isinstance(value, Mapping) else {"every output": value}
    is_fine = not any(a_name(output) or a_number(number, 0) for output, number in by_output.items())
    return "" if is_fine else "a finite number from 0 on, or a dict of such by output: {'logits': 1e-5}"


def data(value: object) -> str:
    """What names data; samples in memory do not."""
    expected = "'random', 'mnist', or the path of an .npz file or a directory"
    return "" if isinstance(value, str | os.PathLike) else expected


def a_switch(value: object) -> str:
    """On or off: text that says so is neither."""
    return "" if isinstance(value, int) or type(value).__name__ in {"bool", "bool_"} else "True or False"


def a_factory(value: object) -> str:
    """What makes a module, and is none."""
    kinds = {f"{kind.__module__}.{kind.__name__}" for kind in type(value).__mro__}
    is_fine = isinstance(value, str) or (callable(value) and "torch.nn.modules.module.Module" not in kinds)
    return "" if is_fine else "what makes the module: its class, a function without arguments, or 'pkg.module:name'"


def a_callable(value: object) -> str:
    """A function."""
    return "" if callable(value) else "a function of what is done, how much of it, and of how much"


def a_path(value: object) -> str:
    """Where a file lies; a model in memory has no such place."""
    return "" if isinstance(value, str | os.PathLike) else "the path of a file (bnfold.fold takes models in memory)"


SWITCHES: Final = (
    *("trust_code", "freeze", "merge_parallel", "copy", "keep_architecture"),
    *("force", "dry_run", "check", "bench", "refresh", "layers"),
)
globs: Final = optional(partial(names, of="a glob over the names of batch norms", example="['head.*']"))
CHECKS: Final[Mapping[str, Check]] = {
    **dict.fromkeys(SWITCHES, a_switch),
    **dict.fromkeys(("source", "original", "folded", "path"), a_path),
    **dict.fromkeys(("only", "skip"), optional(lambda value: globs(value) if value else "")),
    **dict.fromkeys(("atol", "rtol"), optional(a_tolerance)),
    **dict.fromkeys(("samples", "batch"), optional(partial(a_whole_number, least=1))),
    **dict.fromkeys(("std", "scale"), optional(partial(a_number, least=0, above=True))),
    **dict.fromkeys(("eps", "fail_if_slower"), optional(partial(a_number, least=0))),
    **dict.fromkeys(("seed", "max_flips"), a_whole_number),
    "output": optional(a_path),
    "factory": optional(a_factory),
    "key": optional(a_name),
    "pairs": pairs,
    "to": optional(lambda value: one_of(value, "onnx", "pt", "pt2", "safetensors")),
    "require_fold": optional(lambda value: one_of(value, "any", "all")),
    "verify": optional(data),
    "mean": optional(a_number),
    "max_accuracy_drop": optional(partial(a_number, least=0, most=1)),
    "runtime": optional(partial(names, of="the name of a runtime", example="['ort', 'ort-off']")),
    "threads": optional(partial(a_whole_number, least=1, most=MOST_THREADS)),
    "min_seconds": partial(a_number, least=0),
    "progress": optional(a_callable),
}


def _items(value: object) -> list[object]:
    return list(value) if isinstance(value, Iterable) else []


def _shown(value: object) -> str:
    """A plain value as it was written, or what kind of object it is."""
    if value is None or type(value) in {bool, str, int, float, list, tuple, dict}:
        return reprlib.repr(value)
    return f"<{type(value).__name__}>"
