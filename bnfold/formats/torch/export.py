"""Exported programs (.pt2): loaded on the user's word, edited in place, checked by torch's own verifier, and saved."""

from __future__ import annotations

from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Self

import torch
from torch import nn

from bnfold.core.graph import GraphView
from bnfold.core.verdict import Plan
from bnfold.errors import UsageError
from bnfold.files.archive import require_intact
from bnfold.formats.torch.check import require_close
from bnfold.formats.torch.files import STRUCTURE_KEY
from bnfold.formats.torch.inputs import GivenInputs, example_inputs
from bnfold.formats.torch.probes import another_batch
from bnfold.formats.torch.program import ProgramView, run_program, view_program
from bnfold.formats.torch.program_edits import ProgramEditing
from bnfold.formats.torch.running import Inputs
from bnfold.formats.torch.states import StoredState
from bnfold.formats.torch.structure import Structure
from bnfold.formats.torch.trusted import load_program
from bnfold.records import SampleShapes

if TYPE_CHECKING:
    from _typeshed import SupportsWrite
    from torch.export import ExportedProgram

    from bnfold.files.writing import Content


class ExportedModel:
    """An ``ExportedProgram`` that was read from a file, and is edited where it is.

    Not a copy of it: copying a program deeply renames its placeholders.
    """

    def __init__(
        self,
        program: ExportedProgram,
        inputs: GivenInputs = None,
        structure: Structure = Structure(),  # noqa: B008 - frozen
    ) -> None:
        self.program = program
        self.given_inputs = inputs
        self.removed = 0
        self.structure = structure
        self.companions: tuple[ExportedModel, ...] = ()

    @classmethod
    def load(cls, path: Path, inputs: GivenInputs = None) -> Self:
        """Read a .pt2 file, which can run its code: only on the user's word."""
        require_intact(path)
        program, text = load_program(path, STRUCTURE_KEY)
        return cls(program, inputs, Structure.from_json(text, where=str(path)) if text else Structure())

    @property
    def format(self) -> str:
        """What the reports call it."""
        return "pt2"

    @property
    def folded(self) -> ExportedProgram:
        """The program as it is now."""
        return self.program

    @cached_property
    def module(self) -> nn.Module:
        """The program as something that runs."""
        return self.program.module()

    @property
    def is_batch_fixed(self) -> bool:
        """Whether the program runs for one number of samples only."""
        taken = set(self.program.graph_signature.user_inputs)
        values = [node.meta.get("val") for node in self.program.graph.nodes if node.name in taken]
        tensors = [value for value in values if isinstance(value, torch.Tensor) and value.ndim]
        return any(isinstance(tensor.shape[0], int) for tensor in tensors)

    @cached_property
    def inputs(self) -> Inputs:
        """Example inputs: those given, or those that the program was exported with."""
        if self.given_inputs is not None and not isinstance(self.given_inputs, SampleShapes):
            return example_inputs(self.module, self.given_inputs)
        if self.program.example_inputs is None:
            raise UsageError(
                "the program does not say what its inputs are", remedy="give an example: --input 1x3x224x224"
            )
        args, kwargs = self.program.example_inputs
        if args and kwargs:
            raise UsageError(
                "the program takes inputs by position and by keyword", remedy="export it with inputs of one kind"
            )
        return dict(kwargs) if kwargs else tuple(args)

    @cached_property
    def _viewed(self) -> ProgramView:
        return view_program(self.program, self.inputs)

    @property
    def view(self) -> GraphView:
        """The view of one run on the example inputs."""
        return self._viewed.view

    @property
    def notes(self) -> tuple[str, ...]:
        """A program holds nothing beside its graph."""
        return ()

    @property
    def node_count(self) -> int:
        """The number of operators that run."""
        return len(self.view.nodes) - self.removed

    @property
    def external(self) -> tuple[Path, ...]:
        """A program is one file."""
        return ()

    def describe(self, properties: dict[str, str]) -> None:
        """A program says nothing of itself."""

    def apply(self, plan: Plan) -> None:
        """Fold: rewrite tensors, take batch norms out of the graph, let torch verify it, and run it."""
        viewed = self._viewed
        if not plan.folds:
            return
        other = another_batch(self.inputs)
        expected = self._outputs(other)
        editing = ProgramEditing(self.program, viewed)
        for edit in plan.edits:
            editing.rewrite(edit)
        for fold in plan.folds:
            editing.remove(viewed.fx_names[fold.bn.index])
        editing.finish()
        self.removed = len(plan.folds)
        self.structure += Structure(tuple(fold.bn.label for fold in plan.folds), tuple(editing.gained))
        vars(self).pop("module", None)
        require_close(viewed.outputs, run_program(self.program, self.inputs))
        if expected is not None:
            require_close(expected, self._outputs(other) or ())

    def _outputs(self, inputs: Inputs | None) -> tuple[torch.Tensor, ...] | None:
        """What the program computes; None where there are no inputs, or it does not take them."""
        try:
            return None if inputs is None else run_program(self.program, inputs)
        except UsageError:
            return None

    @property
    def state(self) -> StoredState:
        """The program's parameters and buffers by the names that they have in the module that was exported."""
        tensors = {name: tensor.detach() for name, tensor in self.program.state_dict.items()}
        return StoredState(tensors, self.structure)

    def files(self, target: Path) -> dict[Path, Content]:
        """One archive; torch writes another one each time."""
        return {target: self._write}

    def _write(self, stream: SupportsWrite[bytes | memoryview]) -> None:
        stream.write(program_bytes(self.program, self.structure))


def program_bytes(program: ExportedProgram, structure: Structure) -> bytes:
    """A .pt2 file; beside the program it says how the module differs whose tensors these are."""
    archive = BytesIO()
    notes = {} if structure == Structure() else {STRUCTURE_KEY: structure.to_json()}
    torch.export.save(program, archive, extra_files=notes)
    return archive.getvalue()
