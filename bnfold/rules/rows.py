"""Rows: affine nodes directly behind one another, which are one affine map together and may fold as one."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import reduce

from bnfold.core.affine import Affine
from bnfold.core.graph import GraphView, Node, OpKind
from bnfold.core.verdict import Edit, Fold


@dataclass(frozen=True, eq=False)
class Row:
    """Affine nodes in order, each the only reader of the one before it, and the map of each."""

    nodes: tuple[Node, ...]
    affines: tuple[Affine, ...]

    @property
    def node(self) -> Node:
        """The row as one node: its first batch norm, between the ends of the row."""
        if len(self.nodes) == 1:  # as nearly always
            return self.nodes[0]
        likeness = self._likeness
        return replace(likeness, inputs=(self.nodes[0].data, *likeness.inputs[1:]), outputs=self.nodes[-1].outputs)

    @property
    def affine(self) -> Affine:
        """One map after the other."""
        return reduce(Affine.then, self.affines)

    @property
    def halves(self) -> tuple[Row, Row]:
        """Its first half, and the rest."""
        middle = len(self.nodes) // 2
        return (
            Row(self.nodes[:middle], self.affines[:middle]),
            Row(self.nodes[middle:], self.affines[middle:]),
        )

    def each(self, fold: Fold) -> list[Fold]:
        """The fold of the row as one of each node: its first batch norm has the steps, the others name who has them."""
        if len(self.nodes) == 1:
            return [fold]
        named = tuple(Edit(node, ()) for node in fold.into)
        return [
            replace(fold, bn=node, affine=affine, edits=fold.edits if node is self._likeness else named)
            for node, affine in zip(self.nodes, self.affines, strict=True)
        ]

    @property
    def _likeness(self) -> Node:
        return next((node for node in self.nodes if node.kind is OpKind.BATCH_NORM), self.nodes[0])


def rows_of(view: GraphView, singles: Iterable[Row]) -> list[Row]:
    """The rows among affine nodes, given as rows of one in graph order; most stay that.

    In a row nobody else sees what lies between, and all maps have the same channels, but for those that do the same to
    every channel.
    """
    rows: list[list[Row]] = []
    ends: dict[str, tuple[list[Row], Affine]] = {}
    for single in singles:
        value, affine = single.nodes[0].data, single.affines[0]
        row, channels = ends.get(value, ([], affine))
        is_shared = len(view.readers(value)) != 1 or view.is_output(value)
        if not row or is_shared or not (affine.is_uniform or channels.is_uniform or affine.acts_like(channels)):
            row, channels = [], affine
            rows.append(row)
        row.append(single)
        ends[single.nodes[0].outputs[0]] = row, channels if affine.is_uniform else affine
    return [Row(tuple(item.nodes[0] for item in row), tuple(item.affines[0] for item in row)) for row in rows]
