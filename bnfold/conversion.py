"""One model on its way: loaded, planned, folded, and ready to be written or reported."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bnfold import __version__
from bnfold.core.verdict import Plan
from bnfold.files.beside import Beside
from bnfold.files.folders import copy_folder
from bnfold.files.hashing import file_hash, file_record, write_hashed
from bnfold.files.writing import Content, check_target, copy_of, put_files, same_file
from bnfold.formats.kinds import OWN_TARGETS
from bnfold.formats.opening import can_run, converted, keeps_architecture, parse_onnx
from bnfold.planner import plan
from bnfold.records import ExternalRecord, FileRecord, NodeCount
from bnfold.reporting import batch_norm_records, unmatched_globs

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from bnfold.formats.kinds import Target
    from bnfold.formats.model import Model
    from bnfold.formats.torch.targets import Converted


@dataclass(frozen=True, eq=False)
class Conversion:
    """A folded model, the file that it came from, and the plan that was carried out."""

    model: Model
    source: FileRecord
    plan: Plan
    nodes: NodeCount
    warnings: tuple[str, ...]
    output: Model | Converted
    """What is written: the model, or what it has become for ``--to``."""

    @classmethod
    def of(
        cls,
        load: Callable[[], Model],
        path: Path,
        *,
        only: Sequence[str],
        skip: Sequence[str],
        merge_parallel: bool,
        to: Target | None = None,
    ) -> Conversion:
        """Load the model at ``path``, plan and fold it; the file is hashed meanwhile. ``to`` is what it becomes."""
        hashing = Beside(partial(file_hash, path))
        model = load()
        before = model.node_count
        decided = _planned(model, only, skip, merge_parallel=merge_parallel)
        model.apply(decided)
        for companion in model.companions:
            companion.apply(_planned(companion, only, skip))
        source = file_record(path, model.format, external=model.external, hashed=hashing.result())
        if decided.changes:
            model.describe(
                {
                    "bnfold.version": __version__,
                    "bnfold.source_sha256": source.sha256,
                    "bnfold.folded": str(len(decided.folds)),
                }
            )
        warnings = (*model.notes, *unmatched_globs(decided, only, skip))
        nodes = NodeCount(before, model.node_count)
        if to is None or to == OWN_TARGETS.get(model.format):
            return cls(model, source, decided, nodes, warnings, model)
        output = _as_another_kind(model, to)
        if to == "onnx" and not (only or skip):  # what the user leaves out has other names there
            output = _folded_as_onnx(output, decided)
        return cls(model, source, decided, nodes, (*warnings, *output.notes), output)

    @property
    def is_changed(self) -> bool:
        """Whether the output is another model than the source."""
        return bool(self.plan.changes)

    def findings(self) -> dict[str, Any]:
        """What ``inspect`` and ``convert`` both report."""
        return {
            "version": __version__,
            "source": self.source,
            "found": len(self.plan),
            "folded": len(self.plan.folds),
            "kept": len(self.plan.keeps),
            "also_folded": len(self.plan.also_folded),
            "also_merged": self.plan.merged_layers,
            "batch_norms": batch_norm_records(self.plan),
            "nodes": self.nodes,
            "warnings": self.warnings,
        }

    def save(self, target: Path, *, force: bool, folder: Path | None = None) -> FileRecord:
        """Put the output in place at ``target``, as ``write_together`` does; which file it has become.

        With ``folder``, the source's, the folder of ``target`` becomes a copy of it with the folded weights.
        """
        if folder is not None:
            return self._save_folder(folder, target, force=force)
        record = write_hashed(self.contents(target), target, self.output.format, force=force, inputs=self._sources)
        return replace(record, external=record.external or self._shared_data(target))

    def _save_folder(self, folder: Path, target: Path, *, force: bool) -> FileRecord:

        def write(staged: Path) -> None:
            put_files(self.contents(staged / target.name))

        copy_folder(folder, target.parent, set(self._sources), write, force=force)
        beside = tuple(path for path in self.contents(target) if path != target)
        return file_record(target, self.output.format, external=beside)

    def require_writable(self, target: Path, *, force: bool) -> None:
        """OutputError where a file of the output exists and may not be replaced; worth asking before long work."""
        for path in filter(Path.exists, self.contents(target)):
            check_target(path, force=force, inputs=self._sources)

    @property
    def _sources(self) -> list[Path]:
        return [Path(self.source.path), *(Path(item.path) for item in self.source.external)]

    def _shared_data(self, target: Path) -> tuple[ExternalRecord, ...]:
        """The external data of a copy in the source's own folder, which is the source's."""
        is_copy_beside = not self.is_changed and same_file(target.parent, Path(self.source.path).parent)
        return self.source.external if is_copy_beside else ()

    def contents(self, target: Path) -> Mapping[Path, Content]:
        """What is written, ``target`` last: the folded model, or the source byte for byte where nothing folds."""
        source = Path(self.source.path)
        if self.output is self.model and not self.is_changed and not self.source.external:
            return {target: copy_of(source)}
        return self.output.files(target)

    @property
    def must_be_verified(self) -> bool:
        """Whether another program than bnfold has made a running model of the folded one."""
        return self.output is not self.model and bool(getattr(self.output, "runs", False))


def _planned(model: Model, only: Sequence[str], skip: Sequence[str], *, merge_parallel: bool = False) -> Plan:
    """The plan; where the architecture is kept it takes two, since what does not fold whole may do so in part."""
    decided = plan(model.view, only=only, skip=skip, merge_parallel=merge_parallel)
    if keeps_architecture(model):
        return plan(model.view_with_shifts_apart(decided), only=only, skip=skip)
    return decided


def _as_another_kind(model: Model, to: Target) -> Converted:
    """The folded model as another kind of file; what runs keeps the names that its inputs and outputs have in torch."""
    if to != "onnx" or not can_run(model):
        return converted(model, to, (), ())
    from bnfold.runtime.torch_eager import open_session

    session = open_session(model.module, model.inputs)
    return converted(model, to, [spec.name for spec in session.inputs], [spec.name for spec in session.outputs])


def _folded_as_onnx(exported: Converted, before: Plan) -> Converted:
    """An exported model without what only a module's own code had to keep: addends of zeros, layers side by side.

    Layers become one where a batch norm took part that folded ``before``.
    """
    if not isinstance(exported.content, bytes):
        raise TypeError("an ONNX model is exported as bytes")
    model = parse_onnx(exported.content)
    decided = plan(model.view, merge_parallel=before.reaches_sums)
    if not decided.changes:
        return exported
    model.apply(decided)
    content = model.folded.SerializeToString(deterministic=True)
    gone = (
        (len(decided.folds), "the exported model is without {} of the batch norms that the module keeps"),
        (decided.merged_layers, "{} of the exported model's layers went into others beside them"),
    )
    notes = tuple(note.format(count) for count, note in gone if count)
    return replace(exported, content=content, notes=(*exported.notes, *notes))
