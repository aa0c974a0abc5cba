"""What a layer swallows, one thing after the other: affine maps on either side of it, and layers beside it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum, auto
from typing import TYPE_CHECKING

from bnfold.core.affine import Affine

if TYPE_CHECKING:
    from bnfold.core.kernel import Kernel


class Side(Enum):
    """On which side of a layer the batch norm stands that the layer swallows."""

    OUTPUTS = auto()
    """After the layer: its outputs are scaled and shifted."""
    INPUTS = auto()
    """Before the layer: it absorbs what happened to its inputs."""


@dataclass(frozen=True, eq=False)
class Step:
    """One affine that a layer swallows."""

    side: Side
    affine: Affine


@dataclass(frozen=True, eq=False)
class Join:
    """What a layer takes in from beside it in a sum: ``load`` makes its kernel, whose taps begin at ``place``."""

    load: Callable[[], Kernel]
    place: tuple[int, ...]
    largest: tuple[float, float] | None = None
    """The largest |w| and |b| of that kernel, where they are known without it."""

    @property
    def may_shift(self) -> bool:
        """Whether the kernel may have a bias that is not 0."""
        return self.largest is None or self.largest[1] != 0


LayerStep = Step | Join
"""What a layer swallows; a batch norm or a run of arithmetic swallows affines alone."""


def composed(steps: Iterable[LayerStep]) -> tuple[LayerStep, ...]:
    """``steps`` with those that follow one another on the same side as one; the work of many is that of few."""
    few: list[LayerStep] = []
    for step in steps:
        last = few[-1] if few else None
        if (
            isinstance(step, Step)
            and isinstance(last, Step)
            and last.side is step.side
            and last.affine.acts_like(step.affine)
        ):
            is_after = step.side is Side.OUTPUTS
            affine = last.affine.then(step.affine) if is_after else step.affine.then(last.affine)
            few[-1] = Step(step.side, affine)
        else:
            few.append(step)
    return tuple(few)
