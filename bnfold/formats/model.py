"""What every format's model can do: the seam between the front ends and all that happens to a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from bnfold.core.graph import GraphView
from bnfold.core.verdict import Plan

if TYPE_CHECKING:
    from bnfold.files.writing import Content


class Model(Protocol):
    """A model in one of the formats.

    It is loaded for one fold: ``view`` shows it as it was, ``apply`` changes it, ``files`` says what to write of it.
    """

    @property
    def format(self) -> str:
        """``onnx``, ``torch-state-dict``, ``safetensors``, ``safetensors-shards`` or ``torch-module``."""
        ...

    @property
    def view(self) -> GraphView:
        """The graph view of the model as it was loaded."""
        ...

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should know beyond the verdicts."""
        ...

    @property
    def external(self) -> tuple[Path, ...]:
        """Files beside the model that belong to it."""
        ...

    @property
    def node_count(self) -> int:
        """The number of operators that the model has now."""
        ...

    def apply(self, plan: Plan) -> None:
        """Carry out a plan made from ``view``."""
        ...

    def describe(self, properties: dict[str, str]) -> None:
        """Add to the model's metadata, where its format has any."""
        ...

    @property
    def companions(self) -> Sequence[Model]:
        """Copies of the model in the same file, such as moving averages, to be planned and folded like it."""
        ...

    def files(self, target: Path) -> Mapping[Path, Content]:
        """What to write, by path, ``target`` last; the same model gives the same bytes."""
        ...
