"""Runs the rules over every batch norm until nothing more folds, and keeps the nearest miss of each that stays."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

from bnfold.core.graph import GraphView, Node
from bnfold.core.reason import Miss, Reason
from bnfold.core.verdict import Fold, Keep, LayerEdit, Plan, Verdict
from bnfold.rules import RULES
from bnfold.rules.batch_norm import affine_of


def plan(view: GraphView, *, only: Sequence[str] = (), skip: Sequence[str] = ()) -> Plan:
    """One verdict per batch norm, in graph order.

    ``only`` and ``skip`` are globs over the batch norms' labels; what they exclude is kept, with that reason.

    Folds are found in rounds: within a round they touch different nodes, and the next round sees the graph without
    what the last one removed. A model whose batch norms do not stand in each other's way takes two rounds, so that
    the work grows with the model and not with its square.
    """
    all_batch_norms = view.batch_norms
    layers: dict[int, Node] = {}
    verdicts: dict[int, Verdict] = {
        bn.index: Keep(bn, Reason.EXCLUDED_BY_USER, bn, "excluded by --only or --skip")
        for bn in all_batch_norms
        if _is_excluded(bn.label, only, skip)
    }
    pending = [bn for bn in all_batch_norms if bn.index not in verdicts]
    while pending:
        found = _round(view, pending)
        verdicts |= found
        folds = [verdict for verdict in found.values() if isinstance(verdict, Fold)]
        if not folds:
            break
        layers |= {edit.layer.index: edit.layer for fold in folds for edit in fold.edits}
        view = view.after(folds)
        folded = {fold.bn.index for fold in folds}
        pending = [bn for bn in view.batch_norms if bn.index not in folded and _is_open(verdicts.get(bn.index))]
    edits = tuple(LayerEdit(layers[index], view.steps[index]) for index in sorted(layers))
    return Plan(tuple(verdicts[bn.index] for bn in all_batch_norms), edits)


def _round(view: GraphView, pending: list[Node]) -> dict[int, Verdict]:
    """Verdicts as far as this view shows them; folds that touch a node of an earlier fold wait for the next round."""
    verdicts: dict[int, Verdict] = {}
    touched: set[int] = set()
    for bn in pending:
        verdict = _judge(view, bn)
        if isinstance(verdict, Fold) and not touched.isdisjoint(verdict.touched):
            continue
        if isinstance(verdict, Fold):
            touched |= verdict.touched
        verdicts[bn.index] = verdict
    return verdicts


def _judge(view: GraphView, bn: Node) -> Verdict:
    """The first rule that folds ``bn``, or the miss of the rule that got furthest."""
    try:
        affine = affine_of(view, bn)
    except Miss as miss:
        return Keep(bn, miss.reason, miss.node, miss.detail)
    misses = []
    for rule in RULES:
        try:
            return rule(view, bn, affine)
        except Miss as miss:
            misses.append(miss)
    nearest = max(misses, key=lambda miss: miss.reason.code)
    return Keep(bn, nearest.reason, nearest.node, nearest.detail)


def _is_open(verdict: Verdict | None) -> bool:
    """Whether a later round may still find a fold: the batch norm waited, or its neighbourhood was in the way."""
    return verdict is None or (isinstance(verdict, Keep) and verdict.reason is not Reason.EXCLUDED_BY_USER)


def _is_excluded(label: str, only: Sequence[str], skip: Sequence[str]) -> bool:
    """Whether the user's globs leave this batch norm out."""
    if only and not any(fnmatchcase(label, pattern) for pattern in only):
        return True
    return any(fnmatchcase(label, pattern) for pattern in skip)
