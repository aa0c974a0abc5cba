"""Verdicts become records: what a plan says, in words and plain data."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

from bnfold.core.graph import Node
from bnfold.core.traits import ScaleShiftTraits
from bnfold.core.verdict import Fold, Keep, Plan, Verdict
from bnfold.records import BatchNormRecord, Form, ReasonRecord


def batch_norm_records(plan: Plan) -> tuple[BatchNormRecord, ...]:
    """One record per batch norm, in graph order."""
    return tuple(_record(plan, verdict) for verdict in plan)


def unmatched_globs(plan: Plan, only: Sequence[str], skip: Sequence[str]) -> tuple[str, ...]:
    """A warning for each glob that fits the name of no batch norm: a misspelt one would leave everything as it was."""
    labels = [verdict.bn.label for verdict in plan]
    return tuple(
        f"--{option} {pattern!r} fits the name of no batch norm; `bnfold inspect` lists the names"
        for option, patterns in (("only", only), ("skip", skip))
        for pattern in patterns
        if not any(fnmatchcase(label, pattern) for label in labels)
    )


def _record(plan: Plan, verdict: Verdict) -> BatchNormRecord:
    if isinstance(verdict, Keep):
        return BatchNormRecord(verdict.bn.label, _form(verdict.bn), "kept", reason=_reason(verdict))
    return _folded(plan, verdict)


def _folded(plan: Plan, fold: Fold) -> BatchNormRecord:
    return BatchNormRecord(
        fold.bn.label,
        _form(fold.bn),
        "folded",
        rule=fold.rule,
        into=tuple(dict.fromkeys(plan.ends_in(node).label for node in fold.into)),
        scale_range=fold.affine.scale_range,
        warnings=fold.warnings,
    )


def _form(bn: Node) -> Form:
    """Whether a batch norm is an operator, or written out as arithmetic with constants."""
    return "decomposed" if isinstance(bn.traits, ScaleShiftTraits) else "operator"


def _reason(keep: Keep) -> ReasonRecord:
    at = keep.node.label if keep.node else "the model's edge"
    return ReasonRecord(keep.reason.code, keep.reason.slug, at, keep.detail, keep.reason.remedy)
