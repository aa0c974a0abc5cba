"""A folded PyTorch model as another kind of file than it came from: ``--to``."""

from __future__ import annotations

import logging
import warnings
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from bnfold.errors import InputError, UsageError
from bnfold.formats.torch.copies import structural_copy
from bnfold.formats.torch.entries import without_optimiser
from bnfold.formats.torch.export import ExportedModel, program_bytes
from bnfold.formats.torch.files import FORMATS, Checkpoint, CheckpointKind
from bnfold.formats.torch.lazy import after_first_run, require_initialised
from bnfold.formats.torch.module import TorchModel
from bnfold.formats.torch.pairs import PairedState
from bnfold.formats.torch.probes import another_batch
from bnfold.formats.torch.running import Inputs
from bnfold.formats.torch.states import StoredState
from bnfold.formats.torch.trusted import first_line

if TYPE_CHECKING:
    from pathlib import Path

    from torch.export import ExportedProgram

    from bnfold.files.writing import Content

_NOTHING_TO_SAY: tuple[str, ...] = ()
STACK_TRACES = "stack_trace"
"""What torch's exporter writes into every node: which line of whose file it comes from."""


@dataclass(frozen=True, eq=False)
class Converted:
    """A folded model on its way to a file of another kind. ``runs`` says whether it is to be verified as such."""

    format: str
    content: bytes | Checkpoint
    notes: tuple[str, ...] = ()
    runs: bool = False

    def files(self, target: Path) -> dict[Path, Content]:
        """The one file."""
        return self.content.files(target) if isinstance(self.content, Checkpoint) else {target: self.content}


def to_checkpoint(model: TorchModel | ExportedModel | PairedState, kind: CheckpointKind) -> Converted:
    """The tensors of a folded model as a state_dict; only a .pt file has room for what else a checkpoint holds."""
    if isinstance(model, ExportedModel):
        return Converted(FORMATS[kind], _fresh(model.state, kind))
    if isinstance(model, TorchModel) and model.checkpoint is None:
        require_initialised(model.module)
        state = StoredState(OrderedDict(_detached(model.module)), model.structure, _versions(model.module))
        return Converted(FORMATS[kind], _fresh(state, kind))
    whole = model.whole_checkpoint()
    if kind == "pt" and whole.kind == "pt":
        return Converted(FORMATS[kind], whole)
    left = [str(name) for name in without_optimiser(whole.entries)[0] if name != whole.key]
    notes = (f"left out, since safetensors holds the tensors of one network: {', '.join(left)}",) if left else ()
    state = replace(whole.states[whole.key], versions={})
    return Converted(FORMATS[kind], replace(_fresh(state, kind), devices=whole.devices), notes)


def to_program(model: TorchModel) -> Converted:
    """The folded module as an exported program, for any number of samples where torch can tell that it takes them."""
    program, notes = _exported(model.folded, model.inputs)
    return Converted("pt2", program_bytes(program, model.whole_structure), notes, runs=True)


def to_onnx(model: TorchModel | ExportedModel, inputs: Sequence[str], outputs: Sequence[str]) -> Converted:
    """The folded model as ONNX, through torch's exporter, its inputs and outputs named like this."""
    program, notes = (
        _exported(model.folded, model.inputs) if isinstance(model, TorchModel) else (model.program, _NOTHING_TO_SAY)
    )
    with _quietly():
        try:
            exported = torch.onnx.export(
                program,
                dynamo=True,
                input_names=list(inputs),
                output_names=list(outputs),
                external_data=False,
                verbose=False,
            )
        except ModuleNotFoundError as error:
            raise UsageError(
                f"exporting to ONNX needs {error.name}, which is not installed",
                remedy="install it: pip install 'bnfold[export]'",
            ) from error
        except Exception as error:  # whatever torch's exporter makes of an operator
            raise InputError(
                f"torch cannot export the folded model to ONNX: {first_line(error)}",
                remedy="write it as a checkpoint (--to pt or safetensors)",
            ) from error
    proto: Any = exported.model_proto if exported is not None else None
    for node in (*proto.graph.node, *(node for function in proto.functions for node in function.node)):
        kept = [item for item in node.metadata_props if not item.key.endswith(STACK_TRACES)]
        del node.metadata_props[:]
        node.metadata_props.extend(kept)
    return Converted("onnx", proto.SerializeToString(deterministic=True), notes, runs=True)


def _exported(module: nn.Module, inputs: Inputs) -> tuple[ExportedProgram, tuple[str, ...]]:
    """The module as a program; a note where torch takes one number of samples only."""
    require_initialised(module)
    scratch = structural_copy(after_first_run(module, inputs), share_buffers=True).eval()
    example = _several_samples(inputs)
    arguments: dict[str, Any] = {"args": (), "kwargs": example} if isinstance(example, dict) else {"args": example}
    dynamic = _dynamic(example)
    with _quietly():
        try:
            if dynamic is not None:
                return torch.export.export(scratch, **arguments, dynamic_shapes=dynamic), ()
            reason = "its inputs have no first axis in common"
        except Exception as error:  # noqa: BLE001 - torch refuses in many ways; a fixed batch may still do
            reason = first_line(error)
        try:
            program = torch.export.export(scratch, **arguments)
        except Exception as error:
            raise InputError(
                f"torch cannot export the folded model: {first_line(error)}",
                remedy="write it as a checkpoint (--to pt or safetensors)",
            ) from error
    return program, (f"exported for as many samples as in the example only: {reason}",)


def _several_samples(inputs: Inputs) -> Inputs:
    """At least two samples: torch takes a size of 1 for one that is always 1."""
    sizes = {leaf.shape[:1] for leaf in tree_leaves(inputs) if isinstance(leaf, torch.Tensor)}
    doubled = another_batch(inputs) if sizes == {torch.Size([1])} else None
    return inputs if doubled is None else doubled


def _dynamic(inputs: Inputs) -> Any:  # noqa: ANN401 - torch's word for it is as nested as the inputs
    """The first axis of every input as the batch; None where they have none in common."""
    leaves = inputs.values() if isinstance(inputs, dict) else inputs
    if len({leaf.shape[:1] for leaf in leaves}) != 1 or any(leaf.dim() == 0 for leaf in leaves):
        return None
    batch = torch.export.Dim("batch")
    if isinstance(inputs, dict):
        return {name: {0: batch} for name in inputs}
    return tuple({0: batch} for _ in inputs)


def _fresh(state: StoredState, kind: CheckpointKind) -> Checkpoint:
    """A file with nothing but this state_dict."""
    return Checkpoint(kind, {"": state}, metadata={"format": "pt"} if kind == "safetensors" else {})


def _detached(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.detach() for name, tensor in module.state_dict().items()}


def _versions(module: nn.Module) -> dict[str, object]:
    """The version of each part of a module, as torch writes it into a state_dict."""
    return dict(getattr(module.state_dict(), "_metadata", {}))


@contextmanager
def _quietly() -> Iterator[None]:
    """Without what torch's exporters have to say of themselves."""
    logger = logging.getLogger("torch")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
