"""A PyTorch model in bnfold's hands: a module, or a checkpoint and the factory of its architecture."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
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
from bnfold.formats.torch_apply import folded_copy
from bnfold.formats.torch_capture import Capture, capture
from bnfold.formats.torch_check import check_another_batch, check_same_outputs
from bnfold.formats.torch_dtypes import follow, lend_dtypes
from bnfold.formats.torch_files import Checkpoint, dropped_entries, read_checkpoint, unfolded_entries
from bnfold.formats.torch_inputs import GivenInputs, example_inputs
from bnfold.formats.torch_running import Inputs
from bnfold.formats.torch_structure import Structure
from bnfold.formats.torch_trusted import a_or_an, first_line, import_from_here, load_pickled_module

if TYPE_CHECKING:
    from _typeshed import SupportsWrite

Factory = str | Callable[[], nn.Module]
"""``pkg.module:factory``, or something that makes the module when called."""


class TorchModel:
    """A module that bnfold does not change; ``apply`` puts a folded copy in its place.

    ``checkpoint`` is None for a module that was given as an object or pickled.
    """

    def __init__(
        self, module: nn.Module, inputs: GivenInputs = None, *, checkpoint: Checkpoint | None = None, share: bool = True
    ) -> None:
        self.module = module
        self.checkpoint = checkpoint
        self.share = share
        self.given_inputs = inputs
        self.structure = Structure()
        self.removed_calls = 0

    @classmethod
    def load(
        cls, path: Path, inputs: GivenInputs = None, *, factory: Factory | None = None, trust_code: bool = False
    ) -> Self:
        """Read a checkpoint for a factory's module or, with ``trust_code`` and no factory, a pickled module."""
        if factory is None and trust_code and recognise(path) is not Kind.SAFETENSORS:
            return cls(load_pickled_module(path), inputs)
        checkpoint = read_checkpoint(path)
        if factory is None:
            raise UsageError(
                "the file holds tensors without their architecture",
                where=str(path),
                remedy="give the architecture: --model pkg.module:factory (factory= in Python)",
            )
        module = make_module(factory)
        checkpoint = checkpoint.fitting(module)
        checkpoint.structure.reshape(module, str(path))
        dtype = lend_dtypes(checkpoint.state, module)
        checkpoint.load_into(module, str(path))
        return cls(module.eval(), follow(inputs, dtype), checkpoint=checkpoint)

    @property
    def format(self) -> str:
        """What kind of file the model comes from, or goes to."""
        if self.checkpoint is None:
            return "torch-module"
        return "safetensors" if self.checkpoint.kind == "safetensors" else "torch-state-dict"

    @property
    def folded(self) -> nn.Module:
        """The module as it is now."""
        return self.module

    @cached_property
    def inputs(self) -> Inputs:
        """Example inputs: those given, or what the first layer determines."""
        return example_inputs(self.module, self.given_inputs)

    @cached_property
    def _captured(self) -> Capture:
        return capture(self.module, self.inputs)

    @property
    def view(self) -> GraphView:
        """The graph view of one run on the example inputs."""
        return self._captured.view

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should know about this model beyond the verdicts."""
        notes = self._captured.notes
        if self.module.training:
            notes += ("the module is in training mode; it was folded as in inference mode (eval)",)
        if self.checkpoint is None:
            return notes
        if dropped := dropped_entries(self.checkpoint)[1]:
            notes += (f"left out of the folded checkpoint, which they no longer fit: {', '.join(dropped)}",)
        if unfolded := unfolded_entries(self.checkpoint):
            notes += (f"also holds tensors of these names, which are carried unfolded: {', '.join(unfolded)}",)
        return notes

    @property
    def node_count(self) -> int:
        """The number of operators that run."""
        return self._captured.operators - self.removed_calls

    def apply(self, plan: Plan) -> None:
        """Fold: put a folded copy in the module's place, and run it beside the original; a mismatch raises."""
        original = self.module
        self.module, self.structure = folded_copy(original, self._captured, plan, share=self.share)
        if plan.folds:
            check_same_outputs(self.module, self.inputs, self._captured.outputs)
            check_another_batch(original, self.module, self.inputs)
        self.removed_calls = len(plan.folds)

    @property
    def external(self) -> tuple[Path, ...]:
        """A checkpoint is one file."""
        return ()

    def describe(self, properties: dict[str, str]) -> None:
        """A checkpoint says of itself only how its structure changed; a module says nothing."""

    def write(self, stream: SupportsWrite[bytes | memoryview]) -> None:
        """Write the model as the kind it came as; the same model gives the same bytes."""
        if self.checkpoint is not None:
            structure = self.checkpoint.structure + self.structure
            folded = dropped_entries(self.checkpoint)[0].holding(self.module, structure)
            stream.write(folded.to_bytes())
            return
        buffer = BytesIO()
        torch.save(self.module, buffer)
        stream.write(buffer.getvalue())


def make_module(factory: Factory) -> nn.Module:
    """The module that a factory makes; ``pkg.module:name`` is imported, from the current directory too."""
    make = _import_factory(factory) if isinstance(factory, str) else factory
    try:
        module = make()
    except (Exception, SystemExit) as error:  # the user's code may raise anything, and a script may end itself
        raise UsageError(f"the factory failed: {first_line(error)}", where=str(factory)) from error
    if not isinstance(module, nn.Module):
        raise UsageError(
            f"the factory made {a_or_an(module)}, not an nn.Module",
            where=str(factory),
            remedy="give a class, or a function that returns the module",
        )
    return module


def load_folded(module: nn.Module, path: str | os.PathLike[str]) -> nn.Module:
    """Load a folded checkpoint into a freshly made module of the original architecture, in place, and return it.

    Its batch norms become Identity and its layers gain biases as the checkpoint's record says; then every tensor is
    loaded strictly. InputError where the checkpoint does not fit.
    """
    checkpoint = read_checkpoint(Path(path)).fitting(module)
    checkpoint.structure.reshape(module, str(path))
    checkpoint.load_into(module, str(path))
    return module


def _import_factory(name: str) -> Callable[[], nn.Module]:
    module_name, _, attribute = name.partition(":")
    if not module_name or not attribute:
        raise UsageError(f"{name!r} is no factory", remedy="write it as pkg.module:factory")
    import_from_here()
    try:
        made: object = importlib.import_module(module_name)
        for part in attribute.split("."):
            made = getattr(made, part)
    except (Exception, SystemExit) as error:  # importing runs the user's code, which may do anything
        raise UsageError(
            f"the factory cannot be imported: {first_line(error)}",
            where=name,
            remedy="write it as pkg.module:factory, importable from the current directory",
        ) from error
    if not callable(made):
        raise UsageError(f"{name!r} is not callable", remedy="give a class, or a function that returns the module")
    return made
