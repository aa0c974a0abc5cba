"""One model on its way: loaded, planned, folded, and ready to be written or reported."""

from __future__ import annotations

import io
import shutil
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from bnfold import __version__
from bnfold.core.verdict import Plan
from bnfold.files.hashing import Beside, HashingStream, file_record
from bnfold.files.writing import write_atomically
from bnfold.planner import plan
from bnfold.records import FileRecord, NodeCount
from bnfold.reporting import batch_norm_records, unmatched_globs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from _typeshed import SupportsWrite

    from bnfold.formats.opening import Model


@dataclass(frozen=True, eq=False)
class Conversion:
    """A folded model, the file that it came from, and the plan that was carried out."""

    model: Model
    source: FileRecord
    plan: Plan
    nodes: NodeCount
    warnings: tuple[str, ...]

    @classmethod
    def of(cls, model: Model, path: Path, *, only: Sequence[str], skip: Sequence[str]) -> Conversion:
        """Plan and fold ``model``, which was loaded from ``path``."""
        hashing = Beside(partial(file_record, path, model.format, external=model.external))
        before = model.node_count
        decided = plan(model.view, only=only, skip=skip)
        model.apply(decided)
        source = hashing.result()
        if decided.removals:
            model.describe(
                {
                    "bnfold.version": __version__,
                    "bnfold.source_sha256": source.sha256,
                    "bnfold.folded": str(len(decided.folds)),
                }
            )
        warnings = (*model.notes, *unmatched_globs(decided, only, skip))
        return cls(model, source, decided, NodeCount(before, model.node_count), warnings)

    def findings(self) -> dict[str, Any]:
        """What ``inspect`` and ``convert`` both report."""
        return {
            "version": __version__,
            "source": self.source,
            "found": len(self.plan),
            "folded": len(self.plan.folds),
            "kept": len(self.plan.keeps),
            "also_folded": len(self.plan.also_folded),
            "batch_norms": batch_norm_records(self.plan),
            "nodes": self.nodes,
            "warnings": self.warnings,
        }

    def save(self, target: Path, *, force: bool) -> FileRecord:
        """Put the output in place at ``target``, as ``write_atomically`` does; which file it has become."""
        records: list[FileRecord] = []

        def write(stream: BinaryIO) -> None:
            hashing = HashingStream(stream)
            self.write(hashing)
            records.append(hashing.record(target, self.source.format))

        write_atomically(target, write, force=force, inputs=[Path(self.source.path)])
        return records[0]

    def write(self, stream: SupportsWrite[bytes | memoryview]) -> None:
        """The output's content: the folded model, or the source byte for byte where nothing folds."""
        if self.plan.removals:
            self.model.write(stream)
            return
        with Path(self.source.path).open("rb") as source:
            shutil.copyfileobj(source, stream)

    def content(self) -> bytes:
        """What ``write`` writes."""
        stream = io.BytesIO()
        self.write(stream)
        return stream.getvalue()
