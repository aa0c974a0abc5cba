"""A PyTorch model in bnfold's hands: a module, or a checkpoint and the factory of its architecture."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Self

import torch
from torch import nn

from bnfold.core.graph import GraphView
from bnfold.core.verdict import Plan
from bnfold.errors import UsageError
from bnfold.files.recognise import Kind, recognise
from bnfold.formats.torch.apply import folded_copy
from bnfold.formats.torch.architecture import Architecture
from bnfold.formats.torch.capture import Capture
from bnfold.formats.torch.check import check_fold
from bnfold.formats.torch.classes import is_training
from bnfold.formats.torch.dtypes import follow, lend_dtypes
from bnfold.formats.torch.entries import unfolded_in, without_optimiser
from bnfold.formats.torch.factories import Factory, make_module
from bnfold.formats.torch.files import FORMATS, Checkpoint, read_checkpoint
from bnfold.formats.torch.inputs import GivenInputs, recorded_inputs
from bnfold.formats.torch.lazy import after_first_run, uninitialised_in
from bnfold.formats.torch.recordings import capture_all
from bnfold.formats.torch.running import Inputs, unwrapped
from bnfold.formats.torch.structure import Structure
from bnfold.formats.torch.trusted import load_pickled_module

if TYPE_CHECKING:
    from _typeshed import SupportsWrite

    from bnfold.files.writing import Content


class TorchModel:
    """A module that bnfold does not change; ``apply`` puts a folded copy in its place.

    ``checkpoint`` is None for a module that was given as an object or pickled; else the module's tensors stand in it
    under ``key``. ``companions`` are its copies under other keys, each a model with a plan of its own.
    """

    def __init__(
        self,
        module: nn.Module,
        inputs: GivenInputs = None,
        *,
        checkpoint: Checkpoint | None = None,
        key: str = "",
        share: bool = True,
    ) -> None:
        self.module = module if checkpoint else unwrapped(module)
        self.is_unwrapped = self.module is not module
        self.checkpoint = checkpoint
        self.key = key
        self.share = share
        self.given_inputs = inputs
        self.structure = Structure()
        self.removed_calls = 0
        self.is_changed = False
        self.keeps_architecture = False
        self._architecture: Architecture | None = None
        self.is_calibrated = False
        self.found_out: tuple[str, ...] = ()
        """What showed when both modules ran."""
        self.counts: tuple[int, int] | None = None
        self.companions: tuple[TorchModel, ...] = ()

    @classmethod
    def load(
        cls,
        path: Path,
        inputs: GivenInputs = None,
        *,
        factory: Factory | None = None,
        trust_code: bool = False,
        key: str | None = None,
    ) -> Self:
        """Read a checkpoint for a factory's module or, with ``trust_code`` and no factory, a pickled module."""
        if factory is None and trust_code and recognise(path) in {Kind.TORCH_ZIP, Kind.TORCH_PICKLE}:
            if key is not None:
                raise UsageError("--key is for a state_dict", where=str(path), remedy="leave it out, or give --model")
            return cls(load_pickled_module(path), inputs)
        checkpoint = read_checkpoint(path, key)
        if factory is None:
            raise UsageError(
                "the file holds tensors without their architecture",
                where=str(path),
                remedy="give the architecture: --model pkg.module:factory (factory= in Python)",
            )
        models = [cls._loaded(path, checkpoint, name, factory, inputs) for name in checkpoint.states]
        models[0].companions = tuple(models[1:])
        return models[0]

    @classmethod
    def _loaded(cls, path: Path, checkpoint: Checkpoint, key: str, factory: Factory, inputs: GivenInputs) -> Self:
        """A module of its own for the state under ``key``."""
        module = make_module(factory)
        state = checkpoint.states[key].fit(module, str(path))
        dtype = lend_dtypes(state.tensors, module)
        state.load_into(module, str(path))
        fitted = replace(checkpoint, states={**checkpoint.states, key: state})
        return cls(module.eval(), follow(inputs, dtype), checkpoint=fitted, key=key)

    @property
    def format(self) -> str:
        """What kind of file the model comes from, or goes to."""
        return FORMATS[self.checkpoint.kind] if self.checkpoint else "torch-module"

    is_batch_fixed = False
    """A module runs for any number of samples, as far as anybody knows."""

    @property
    def folded(self) -> nn.Module:
        """The module as it is now."""
        return self.module

    @cached_property
    def inputs(self) -> Inputs:
        """Example inputs: those given, or what the first layer determines."""
        return self.recordings[0]

    @cached_property
    def recordings(self) -> list[Inputs]:
        """All example inputs, each of which is recorded."""
        return recorded_inputs(self.module, self.given_inputs)

    @cached_property
    def runnable(self) -> nn.Module:
        """The module as it was given or, where it is lazy, a copy whose first run gave it sizes, and random values."""
        return after_first_run(self.module, self.inputs)

    @cached_property
    def _captured(self) -> Capture:
        captured = capture_all(self.runnable, self.recordings, uninitialised_in(self.module))
        if self.keeps_architecture:
            self._architecture = Architecture.of(captured, self.runnable)
            return self._architecture.captured
        return captured

    def view_with_shifts_apart(self, first: Plan) -> GraphView:
        """Where the architecture is kept, the view for a second plan, made from the first one."""
        if self._architecture is None:
            raise ValueError("there is no first plan without a view")
        self._architecture = self._architecture.with_shifts_apart(first)
        return self._architecture.captured.view

    @property
    def view(self) -> GraphView:
        """The graph view of one run on the example inputs."""
        return self._captured.view

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should know about this model beyond the verdicts."""
        notes = (*self._captured.notes, *self.found_out)
        if self.is_unwrapped:
            notes += ("the module was wrapped, for other devices or compiled; the one underneath was folded",)
        if is_training(self.module):
            notes += ("the module is in training mode; it was folded as in inference mode (eval)",)
        if self.keeps_architecture:
            notes += (
                "the architecture is kept: each folded batch norm stays and scales by 1; no faster, loads anywhere",
            )
        if self.checkpoint is None:
            return notes
        if dropped := without_optimiser(self.checkpoint.entries)[1]:
            notes += (f"left out of the folded checkpoint, which they no longer fit: {', '.join(dropped)}",)
        notes += tuple(
            f"its copy under {copy.key!r} is folded too: {copy.counts[0]} of {copy.counts[1]} batch norms"
            for copy in self.companions
            if copy.counts
        )
        if unfolded := unfolded_in(self.checkpoint.entries, self.checkpoint.states):
            notes += (f"also holds tensors of these names, which are carried unfolded: {', '.join(unfolded)}",)
        return notes

    @property
    def node_count(self) -> int:
        """The number of operators that run."""
        return self._captured.operators - self.removed_calls

    def apply(self, plan: Plan) -> None:
        """Fold: put a folded copy in the module's place, and run it beside the original; a mismatch raises."""
        original, runnable = self.module, self.runnable
        captured = self._captured if self._architecture is None else self._architecture.after(plan)
        self.module, self.structure = folded_copy(original, captured, plan, share=self.share)
        self.removed_calls = self._captured.removed_calls(plan)
        if plan.folds:
            folded, is_rewired = after_first_run(self.module, self.inputs), self._architecture is not None
            self.found_out = check_fold(
                runnable, folded, self.recordings, self._captured, plan, always_at_other_sizes=is_rewired
            )
        self.counts = (len(plan.folds), len(plan))
        self.is_changed = bool(plan.changes)
        self._keep_in_checkpoint(original)

    def calibrate(self, module: nn.Module, structure: Structure) -> None:
        """Put a copy whose batch norms have new statistics in the module's place."""
        original = self.module
        self.module, self.structure, self.is_calibrated = module, structure, True
        self._keep_in_checkpoint(original)

    def _keep_in_checkpoint(self, original: nn.Module) -> None:
        """Let the checkpoint hold the module as it is now, instead of as it was."""
        if self.checkpoint is not None:
            before = self.checkpoint.states[self.key]
            after = before.holding(original, self.module, before.structure + self.structure)
            self.checkpoint = self.checkpoint.holding({self.key: after})

    @property
    def whole_structure(self) -> Structure:
        """How the module differs from a fresh one, earlier folds included."""
        return self.checkpoint.states[self.key].structure if self.checkpoint is not None else self.structure

    @property
    def external(self) -> tuple[Path, ...]:
        """The shards of an index."""
        return self.checkpoint.shards.files if self.checkpoint and self.checkpoint.shards else ()

    def describe(self, properties: dict[str, str]) -> None:
        """A checkpoint says of itself only how its structure changed; a module says nothing."""

    def files(self, target: Path) -> dict[Path, Content]:
        """The model as the kind it came as; the same model gives the same bytes."""
        if self.checkpoint is None:
            return {target: self._write_module}
        if self.checkpoint.shards is not None and not (self.is_changed or self.is_calibrated):
            return self.checkpoint.shards.copies(target)
        return self.whole_checkpoint().files(target)

    def _write_module(self, stream: SupportsWrite[bytes | memoryview]) -> None:
        buffer = BytesIO()
        torch.save(self.module, buffer)
        stream.write(buffer.getvalue())

    def whole_checkpoint(self) -> Checkpoint:
        """The checkpoint with the folded copies of the network; after a fold, without the optimiser's state."""
        own = self.checkpoint
        if own is None:
            raise ValueError("a module that is no checkpoint's")
        entries = own.entries if self.is_calibrated else without_optimiser(own.entries)[0]
        copies = {copy.key: copy.checkpoint.states[copy.key] for copy in self.companions if copy.checkpoint}
        return replace(own, entries=entries).holding(copies)
