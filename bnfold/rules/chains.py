"""Chains: batch norms with pools, reshapes or sums between them, of which each is in the way of the next one.

One round of the planner folds the one beside the layer, the next round the next. Here they fold together: what each one
does becomes part of the one between it and the layer, before that folds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce

from bnfold.core.affine import Affine
from bnfold.core.graph import LAYERS, GraphView, Node
from bnfold.core.reason import Miss
from bnfold.core.steps import Step
from bnfold.core.verdict import Edit, Fold, Keep, Verdict
from bnfold.rules.landing import one_edit_each
from bnfold.rules.pulling import Ends, pull_up
from bnfold.rules.pushing import push_down
from bnfold.rules.rows import Row

Walk = Callable[[GraphView, Row, Affine, Mapping[int, Affine]], tuple[list[Edit], list[Node]]]


@dataclass(frozen=True)
class Way:
    """Upward or downward: the rule that folds a row by itself, and how to follow an affine to affine nodes as well."""

    rule: str
    is_upward: bool
    walk: Walk

    def end(self, row: Row) -> int:
        """The node of a row that a walk in this direction meets."""
        return row.nodes[-1 if self.is_upward else 0].index

    def total(self, row: Row, arriving: Affine | None) -> Affine:
        """What a row does, with what arrives at its end."""
        if arriving is None:
            return row.affine
        return row.affine.then(arriving) if self.is_upward else arriving.then(row.affine)


def _up(view: GraphView, row: Row, affine: Affine, affines: Mapping[int, Affine]) -> tuple[list[Edit], list[Node]]:
    return pull_up(view, row.node.data, affine, Ends(LAYERS, affines))


def _down(view: GraphView, row: Row, affine: Affine, affines: Mapping[int, Affine]) -> tuple[list[Edit], list[Node]]:
    return push_down(view, row.node.outputs[0], affine, affines)


WAYS = (Way("absorb-above", is_upward=True, walk=_up), Way("absorb-below", is_upward=False, walk=_down))
"""In the order in which the planner tries them."""


def chained(view: GraphView, judged: Sequence[tuple[Row, Verdict]], way: Way) -> list[Fold]:
    """The folds of a round in one direction, together with those that only wait for them; nothing where none waits.

    ``judged`` are the rows of the round in graph order, each with what becomes of it by itself. Where one cannot fold
    with what it then does, the round stays as it is.
    """
    members: list[Row] = []
    affines: dict[int, Affine] = {}
    one_waits = False
    for row, verdict in judged if way.is_upward else reversed(judged):
        if isinstance(verdict, Keep) and affines and _arrives(view, row, way, affines):
            one_waits = True
        elif isinstance(verdict, Keep) or verdict.rule != way.rule:
            continue
        members.append(row)
        affines[way.end(row)] = row.affine
    return _together(view, members, way, affines) if one_waits else []


def _arrives(view: GraphView, row: Row, way: Way, affines: Mapping[int, Affine]) -> bool:
    """Whether every path from a row ends in a layer, or in one of the affine nodes that fold."""
    try:
        way.walk(view, row, row.affine, affines)
    except Miss:
        return False
    return True


def _together(view: GraphView, members: Sequence[Row], way: Way, affines: Mapping[int, Affine]) -> list[Fold]:
    """The folds of ``members``, the farthest from the layer first; nothing where one cannot fold.

    Nor where one is in another's way: it crosses what the other removes, or ends in the same layer.
    """
    arriving: dict[int, Affine] = {}
    folds: list[Fold] = []
    layers: list[int] = []
    done: set[int] = set()
    for row in reversed(members):
        try:
            edits, crossed = way.walk(view, row, way.total(row, arriving.get(way.end(row))), affines)
            swallowed = one_edit_each(view, [edit for edit in edits if edit.node.index not in affines])
        except Miss:
            return []
        done.add(way.end(row))
        named: dict[int, Edit] = {}
        for node, affine in _passed_on(edit for edit in edits if edit.node.index in affines):
            before = arriving.get(node.index)
            arriving[node.index] = before.then(affine) if before else affine  # others come to other channels of it
            named[node.index] = Edit(node, ())
        if not done.isdisjoint(named):
            return []  # the nodes of a file may be in any order
        layers += [edit.node.index for edit in swallowed]
        folds += row.each(Fold(row.node, row.affine, way.rule, (*swallowed, *named.values()), tuple(crossed)))
    removed = {node.index for fold in folds for node in fold.removed}
    is_crossed = any(node.index in removed for fold in folds for node in fold.crossed)
    return [] if is_crossed or len(set(layers)) < len(layers) else folds


def _passed_on(edits: Iterable[Edit]) -> list[tuple[Node, Affine]]:
    """The affine nodes at which paths end, each with the one map that arrives there."""
    by_node: dict[int, list[Edit]] = {}
    for edit in edits:
        by_node.setdefault(edit.node.index, []).append(edit)
    return [(group[0].node, reduce(Affine.then, map(_affine, group))) for group in by_node.values()]


def _affine(edit: Edit) -> Affine:
    (step,) = edit.steps
    if not isinstance(step, Step):
        raise TypeError("an affine node takes an affine map alone")
    return step.affine
