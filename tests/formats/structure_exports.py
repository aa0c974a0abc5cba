"""Structures as ONNX models, by both of torch's exporters, and what becomes of their batch norms.

Run as a script, this prints the table of ``docs/coverage.md`` as measured.
"""

from __future__ import annotations

import io
import logging
import sys
import warnings
from collections import Counter
from dataclasses import dataclass
from functools import cache

import onnx
import torch
from onnx import ModelProto
from structures import STRUCTURES, Structure
from torch import nn
from torch_modules import shaken

from bnfold import fold
from bnfold.core.verdict import Fold, Keep, Plan

EXPORTERS = ("dynamo", "TorchScript")
TORCHSCRIPT_OPSET = 17
BATCH = 3
SEED = 1
"""With this one no ReLU is silent for all of a structure's batch norms: every scale reaches the output."""


@cache
def exported(structure: Structure, exporter: str) -> ModelProto:
    """The structure with random weights, every batch norm kept, for any size of batch. Not to be changed."""
    torch.manual_seed(SEED)
    module = shaken(structure.build(), seed=SEED)
    x = torch.randn(BATCH, *structure.shape)
    logging.getLogger("torch.onnx._internal.exporter._registration").setLevel(logging.ERROR)  # "no torchvision"
    with warnings.catch_warnings():
        # torch.export calls what torch itself deprecates (2.13); the older exporter is deprecated as a whole.
        warnings.filterwarnings("ignore", message=r".*isinstance\(treespec, LeafSpec\)", category=FutureWarning)
        warnings.filterwarnings("ignore", message="The feature will be removed", category=DeprecationWarning)
        warnings.filterwarnings("ignore", message="You are using the legacy TorchScript", category=DeprecationWarning)
        return _by_dynamo(module, x) if exporter == "dynamo" else _by_torchscript(module, x)


def _by_dynamo(module: nn.Module, x: torch.Tensor) -> ModelProto:
    """Without optimisation: with it, the exporter folds batch norms on its own."""
    program = torch.onnx.export(
        module,
        (x,),
        input_names=["x"],
        output_names=["y"],
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        dynamo=True,
        optimize=False,
        verbose=False,
    )
    assert program is not None
    return program.model_proto


def _by_torchscript(module: nn.Module, x: torch.Tensor) -> ModelProto:
    """The older exporter folds Conv→BN on its own in mode EVAL, and not in mode PRESERVE."""
    stream = io.BytesIO()
    torch.onnx.export(
        module,
        (x,),
        stream,  # type: ignore[arg-type]  # typed for dynamo=True, which takes paths alone
        input_names=["x"],
        output_names=["y"],
        dynamic_axes={"x": {0: "batch"}, "y": {0: "batch"}},
        training=torch.onnx.TrainingMode.PRESERVE,
        do_constant_folding=False,
        opset_version=TORCHSCRIPT_OPSET,
        dynamo=False,
    )
    return onnx.load_model_from_string(stream.getvalue())


@dataclass(frozen=True)
class Tally:
    """The batch norms of a model: how many folded by each rule, and how many stay for each reason (its slug)."""

    folded: dict[str, int]
    kept: dict[str, int]

    def cells(self) -> str:
        """Found, folded and kept as three cells of a Markdown table."""
        folded, kept = sum(self.folded.values()), sum(self.kept.values())
        return f"{folded + kept} | {_detailed(folded, self.folded)} | {_detailed(kept, self.kept)}"


def tally(plan: Plan) -> Tally:
    return Tally(
        dict(Counter(verdict.rule for verdict in plan if isinstance(verdict, Fold))),
        dict(Counter(verdict.reason.slug for verdict in plan if isinstance(verdict, Keep))),
    )


def _detailed(total: int, parts: dict[str, int]) -> str:
    return f"{total}" + (f" ({', '.join(f'{name} {count}' for name, count in sorted(parts.items()))})" if total else "")


def row(structure: Structure, exporter: str, counted: Tally) -> str:
    """One line of the document's table."""
    return f"| {structure.name} | {exporter} | {counted.cells()} |"


if __name__ == "__main__":
    for each in STRUCTURES:
        for by in EXPORTERS:
            sys.stdout.write(f"{row(each, by, tally(fold(exported(each, by)).plan))}\n")
