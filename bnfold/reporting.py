"""What was found out becomes records: the verdicts of a plan, in words and plain data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, is_dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, TypeVar

from bnfold.core.graph import Node
from bnfold.core.traits import ScaleShiftTraits
from bnfold.core.verdict import Fold, Keep, Plan, Verdict
from bnfold.files.hashing import file_hash
from bnfold.records import (
    BatchNormRecord,
    ExternalRecord,
    FileRecord,
    Form,
    ReasonRecord,
    Report,
)

_Report = TypeVar("_Report", bound=Report)


def batch_norm_records(plan: Plan) -> tuple[BatchNormRecord, ...]:
    """One record per batch norm, in graph order."""
    return tuple(_record(plan, verdict) for verdict in plan)


def with_data_hashes(report: _Report) -> _Report:
    """The report, with the hashes of all external data in it; each file is read once. Raises InputError."""
    hashed: _Report = _with_hashes(report, {})
    return hashed


def _with_hashes(value: Any, known: dict[str, str]) -> Any:  # noqa: ANN401 - whatever a report holds
    if isinstance(value, ExternalRecord):
        if value.path not in known:
            known[value.path] = file_hash(Path(value.path)).sha256
        return replace(value, sha256=known[value.path])
    if isinstance(value, tuple) and value and isinstance(value[0], FileRecord | ExternalRecord):
        return tuple(_with_hashes(item, known) for item in value)
    if isinstance(value, FileRecord | Report) and is_dataclass(value):
        return replace(value, **{item.name: _with_hashes(getattr(value, item.name), known) for item in fields(value)})
    return value


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
        into=tuple(dict.fromkeys(node.label for node in plan.ends_of(fold))),
        scale_range=fold.affine.scale_range,
        warnings=fold.warnings,
    )


def _form(bn: Node) -> Form:
    """Whether a batch norm is an operator, or written out as arithmetic with constants."""
    return "decomposed" if isinstance(bn.traits, ScaleShiftTraits) else "operator"


def _reason(keep: Keep) -> ReasonRecord:
    at = keep.node.label if keep.node else "the model's edge"
    return ReasonRecord(keep.reason.code, keep.reason.slug, at, keep.detail, keep.reason.remedy)
