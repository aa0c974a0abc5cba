"""What a record of a run consists of: calls, the values that went in and came out, and runs of modules."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch._ops import OpOverload

COMPUTED = "%"
"""What the ids of computed values begin with; those of stored tensors are their names."""


def is_stored(value: str | None) -> bool:
    """Whether a value id is the name of a stored tensor."""
    return value is not None and not value.startswith(COMPUTED)


@dataclass(eq=False, slots=True)
class Call:
    """One ATen call: its arguments by name, tensors replaced by value ids, and the module that ran it.

    Never changed; not frozen, as that would take a tenth of the time in which a call is recorded.
    """

    op: str
    module: str
    arguments: Mapping[str, object]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    written: frozenset[str] = frozenset()
    """Those of the outputs that are written in place."""
    is_observation: bool = False
    """Whether this is no ATen call, but something that the recorder noticed between the calls."""
    function: OpOverload | None = None
    """What was called; None for an observation."""

    def value(self, name: str) -> str | None:
        """The value id of a tensor argument; None where it is absent."""
        argument = self.arguments.get(name)
        return argument.id if isinstance(argument, Ref) else None


@dataclass(frozen=True, slots=True)
class Ref:
    """A tensor among a call's arguments."""

    id: str


@dataclass(frozen=True)
class ModuleRun:
    """One run of a module: the values that went in, by position or keyword, and those that came out."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
