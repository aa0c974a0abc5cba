"""Runs the rules over every batch norm until nothing more folds, and keeps the nearest miss of each that stays."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from fnmatch import fnmatchcase

from bnfold.core.affine import Affine
from bnfold.core.collecting import uncollected
from bnfold.core.graph import GraphView, Node, OpKind, Sums
from bnfold.core.reason import Miss, Reason
from bnfold.core.verdict import Change, Edit, Fold, JoinedLayers, Keep, Plan, Verdict
from bnfold.errors import UsageError
from bnfold.rules import BESIDE, NEIGHBOURS, STAGES, Rule
from bnfold.rules.batch_norm import affine_of
from bnfold.rules.chains import WAYS, chained
from bnfold.rules.parallel_layers import join_layers
from bnfold.rules.rows import Row, rows_of
from bnfold.rules.together import Together


@uncollected()
def plan(view: GraphView, *, only: Sequence[str] = (), skip: Sequence[str] = (), merge_parallel: bool = False) -> Plan:
    """One verdict per batch norm, in graph order.

    ``only`` and ``skip`` are globs over the batch norms' labels; what they exclude is kept, with that reason.
    ``merge_parallel`` makes one layer of the layers beside one another in a sum also where no batch norm takes part;
    UsageError where the view's front end cannot.

    Folds are found in rounds: within a round none stands in another's way, and the next round sees the graph without
    what the last one removed. Most models take two rounds, and batch norms that stand directly behind one another, with
    pools or sums between them, or before and behind parts of one layer, fold in one, so that the work grows with the
    model and not with its square.
    """
    if merge_parallel and view.sums is not Sums.JOIN_LAYERS:
        raise UsageError(
            "--merge-parallel is for ONNX: a PyTorch module's own code calls each of its layers",
            remedy="leave it out, or export the model to ONNX first",
        )
    affine_nodes = view.affine_nodes
    changed: dict[int, Node] = {}
    verdicts: dict[int, Verdict] = {
        bn.index: Keep(bn, Reason.EXCLUDED_BY_USER, bn, "excluded by --only or --skip")
        for bn in affine_nodes
        if _is_excluded(bn.label, only, skip)
    }
    joined: list[JoinedLayers] = []
    gone: set[int] = set()
    while changes := _round(view, verdicts) or join_layers(view, everywhere=merge_parallel):
        verdicts |= {change.bn.index: change for change in changes if isinstance(change, Fold)}
        joined += [change for change in changes if isinstance(change, JoinedLayers)]
        changed |= {edit.node.index: edit.node for change in changes for edit in change.edits}
        gone.update(node.index for change in changes for node in change.removed)
        view = view.after(changes)
    edits = tuple(Edit(changed[index], view.steps[index]) for index in sorted(changed.keys() - gone))
    others = (verdicts[node.index] for node in affine_nodes if node.kind is not OpKind.BATCH_NORM)
    return Plan(
        tuple(verdicts[node.index] for node in affine_nodes if node.kind is OpKind.BATCH_NORM),
        edits,
        tuple(verdict for verdict in others if isinstance(verdict, Fold)),
        tuple(joined),
        tuple(sorted(view.left.items())),
    )


def _round(view: GraphView, verdicts: dict[int, Verdict]) -> Sequence[Change]:
    """The folds of the first stage that finds any; what stays as far as this view shows goes into ``verdicts``."""
    singles: list[Row] = []
    for bn in view.affine_nodes:
        if _is_settled(verdicts.get(bn.index)):
            continue
        try:
            singles.append(Row((bn,), (affine_of(view, bn),)))
        except Miss as miss:
            verdicts[bn.index] = Keep(bn, miss.reason, miss.node, miss.detail)
    rows = rows_of(view, singles)
    for rules in STAGES:
        judged = list(_judged(view, rows if rules is NEIGHBOURS else singles, rules))
        for keep in (verdict for _, verdict in judged if isinstance(verdict, Keep)):
            if rules is NEIGHBOURS or (rules is BESIDE and _is_nearer(keep, verdicts.get(keep.bn.index))):
                verdicts[keep.bn.index] = keep
        folds = _made_together(view, judged, rules)
        if folds:
            return folds
    return []


def _made_together(view: GraphView, judged: Sequence[tuple[Row, Verdict]], rules: Sequence[Rule]) -> Sequence[Fold]:
    """The folds of a round: chains first, then those that stand in no other's way."""
    together = Together(view)
    if rules is NEIGHBOURS:
        for way in WAYS:
            together.take(chained(view, judged, way), may_share=False)
    chains = {fold.bn.index for fold in together.folds}
    for part, verdict in judged:
        if isinstance(verdict, Fold) and part.nodes[0].index not in chains:
            together.take(part.each(verdict), may_share=rules is NEIGHBOURS)
    return together.folds


def _judged(view: GraphView, rows: Iterable[Row], rules: Sequence[Rule]) -> Iterator[tuple[Row, Verdict]]:
    """The verdict on each row as a whole, or on its parts: halves, until they fold or are single nodes."""
    pending = list(rows)[::-1]
    while pending:
        row = pending.pop()
        verdict = _judge(view, row.node, row.affine, rules)
        if isinstance(verdict, Keep) and len(row.nodes) > 1:
            pending += row.halves[::-1]
        else:
            yield row, verdict


def _judge(view: GraphView, bn: Node, affine: Affine, rules: Sequence[Rule]) -> Verdict:
    """The first rule that folds ``bn``, or the miss of the rule that got furthest."""
    misses = []
    for rule in rules:
        try:
            return rule(view, bn, affine)
        except Miss as miss:
            misses.append(miss)
    misses.sort(key=lambda miss: miss.reason.code, reverse=True)
    details = dict.fromkeys(miss.detail for miss in misses)
    return Keep(bn, misses[0].reason, misses[0].node, "; ".join(details))


def _is_nearer(keep: Keep, than: Verdict | None) -> bool:
    """Whether a rule got further than those that were tried before it."""
    return isinstance(than, Keep) and keep.reason.code > than.reason.code


def _is_settled(verdict: Verdict | None) -> bool:
    """Whether no later round can find a fold: it is found, or the user excluded the batch norm."""
    return isinstance(verdict, Fold) or (isinstance(verdict, Keep) and verdict.reason is Reason.EXCLUDED_BY_USER)


def _is_excluded(label: str, only: Sequence[str], skip: Sequence[str]) -> bool:
    """Whether the user's globs leave this batch norm out."""
    if only and not any(fnmatchcase(label, pattern) for pattern in only):
        return True
    return any(fnmatchcase(label, pattern) for pattern in skip)
