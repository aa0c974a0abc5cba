"""One door to every format: what is at a path, or in the caller's hands, becomes a ``Model``."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict, TypeGuard

from bnfold.errors import UsageError
from bnfold.files.recognise import Kind, require_model
from bnfold.formats.kinds import TARGETS, Target

if TYPE_CHECKING:
    from bnfold.formats.onnx.model import OnnxModel
    from bnfold.formats.onnx.statistics import OnnxStatistics
    from bnfold.formats.torch.export import ExportedModel
    from bnfold.formats.torch.factories import Factory
    from bnfold.formats.torch.inputs import GivenInputs
    from bnfold.formats.torch.module import TorchModel
    from bnfold.formats.torch.pairs import PairedState
    from bnfold.formats.torch.statistics import TorchStatistics
    from bnfold.formats.torch.targets import Converted
    from bnfold.records import PairCandidate, SampleShapes


class Opening(TypedDict):
    """What is needed to open and run a model besides its path."""

    inputs: GivenInputs
    factory: Factory | None
    trust_code: bool
    key: str | None


def open_model(
    path: Path,
    *,
    inputs: GivenInputs = None,
    factory: Factory | None = None,
    trust_code: bool = False,
    freeze: bool = False,
    key: str | None = None,
) -> OnnxModel | TorchModel | ExportedModel:
    """Load the model at ``path`` with the front end for its kind; InputError, UnsafeError or UsageError on failure."""
    if require_model(path) is Kind.ONNX:
        from bnfold.formats.onnx.model import OnnxModel

        return OnnxModel.load(path, freeze=freeze)
    return open_torch(path, inputs=inputs, factory=factory, trust_code=trust_code, key=key)


def open_torch(
    path: Path,
    *,
    inputs: GivenInputs = None,
    factory: Factory | None = None,
    trust_code: bool = False,
    key: str | None = None,
) -> TorchModel | ExportedModel:
    """Load the checkpoint, pickled module or exported program at ``path``; errors as for ``open_model``."""
    with torch_needed():
        from bnfold.formats.torch.module import TorchModel

        if require_model(path) is Kind.PT2 and trust_code:
            from bnfold.formats.torch.export import ExportedModel

            return ExportedModel.load(path, inputs)
        return TorchModel.load(path, inputs, factory=factory, trust_code=trust_code, key=key)


def open_keeping_architecture(path: Path, opening: Opening) -> TorchModel:
    """Load the model at ``path`` to be folded without changing its architecture; errors as for ``open_model``."""
    if require_model(path) in {Kind.ONNX, Kind.PT2}:
        raise UsageError(
            "--keep-architecture is for the weights of a module",
            where=str(path),
            remedy="leave it out: what is folded has no other use for the batch norms' names",
        )
    model = open_torch(path, **opening)
    if not keeps_architecture(model, begin=True):
        raise TypeError(f"{type(model).__name__} has no architecture to keep")
    return model


def keeps_architecture(model: object, *, begin: bool = False) -> TypeGuard[TorchModel]:
    """Whether the batch norms of ``model`` stay when they fold; ``begin`` makes it so, its copies included."""
    if begin and hasattr(model, "keeps_architecture"):
        for item in (model, *getattr(model, "companions", ())):
            item.keeps_architecture = True
    return bool(getattr(model, "keeps_architecture", False))


def open_pairs(path: Path, pairs: Sequence[str], epsilon: float | None, *, key: str | None = None) -> PairedState:
    """Load the state_dict at ``path`` with the user's ``pairs`` of layers and batch norms; errors as above."""
    with torch_needed():
        from bnfold.formats.torch.pairs import PairedState

        return PairedState.load(path, pairs, epsilon, key)


def pair_candidates(path: Path, *, key: str | None = None) -> list[PairCandidate]:
    """The layers and batch norms in the state_dict at ``path`` that fit by their shapes; errors as above."""
    with torch_needed():
        from bnfold.formats.torch.pair_kinds import candidates_in

        return candidates_in(path, key)


def converted(model: object, to: Target, inputs: Sequence[str], outputs: Sequence[str]) -> Converted:
    """The folded ``model`` as another kind of file. UsageError where that cannot be."""
    with torch_needed():
        from bnfold.formats.torch import targets
        from bnfold.formats.torch.export import ExportedModel
        from bnfold.formats.torch.module import TorchModel
        from bnfold.formats.torch.pairs import PairedState

    if isinstance(model, TorchModel | ExportedModel | PairedState) and to in {"pt", "safetensors"}:
        return targets.to_checkpoint(model, "pt" if to == "pt" else "safetensors")
    if isinstance(model, TorchModel | ExportedModel) and to == "onnx":
        return targets.to_onnx(model, inputs, outputs)
    if isinstance(model, TorchModel):
        return targets.to_program(model)
    raise _no_way(model, to)


def parse_onnx(content: bytes) -> OnnxModel:
    """The ONNX model that torch's exporter has written."""
    from bnfold.formats.onnx.model import OnnxModel

    return OnnxModel.parse(content)


def can_run(model: object) -> TypeGuard[TorchModel | ExportedModel]:
    """Whether ``model`` is PyTorch's, with a module that runs."""
    return getattr(model, "module", None) is not None


def _no_way(model: object, to: Target) -> UsageError:
    """Why a model cannot become another kind of file."""
    if hasattr(model, "proto"):
        return UsageError(
            f"an ONNX model cannot become {TARGETS[to].value}: it has no module to export, nor names of one's tensors",
            remedy="fold it as ONNX (leave --to out), or start from the PyTorch checkpoint",
        )
    return UsageError(
        f"a state_dict without its architecture cannot become {TARGETS[to].value}: it does not run",
        remedy="give --model pkg.module:factory instead of pairs, or write pt or safetensors",
    )


def wrap_model(
    model: object, *, inputs: GivenInputs = None, freeze: bool = False, share: bool = True
) -> OnnxModel | TorchModel:
    """A model around an ``onnx.ModelProto`` or an ``nn.Module``, neither of which is changed."""
    onnx, torch = sys.modules.get("onnx"), sys.modules.get("torch")
    if onnx is not None and isinstance(model, onnx.ModelProto):
        from bnfold.formats.onnx.model import OnnxModel

        return OnnxModel.copy_of(model, freeze=freeze)
    if torch is not None and isinstance(model, torch.nn.Module):
        from bnfold.formats.torch.module import TorchModel

        return TorchModel(model, inputs, share=share)
    what = f"an object of type {type(model).__name__}"
    remedy = "give an nn.Module, an onnx.ModelProto or the path of a file"
    if isinstance(model, type):
        what, remedy = f"the class {model.__name__}", "give an instance of it with its weights, in eval()"
    elif isinstance(model, dict):
        remedy = "give the module whose state_dict it is, or the path of its file with factory="
    raise UsageError(f"{what} is no model", remedy=remedy)


def lend_samples(model: OnnxModel | TorchModel | ExportedModel, shapes: Callable[[], SampleShapes]) -> None:
    """Let a module for which nobody gave inputs be run on what the samples of data look like."""
    if getattr(model, "given_inputs", ()) is None:
        model.given_inputs = shapes()  # type: ignore[union-attr]  # an ONNX model has none


def open_statistics(model: OnnxModel | TorchModel | ExportedModel) -> OnnxStatistics | TorchStatistics:
    """The statistics of a model's batch norms; InputError where they cannot be replaced."""
    onnx_model = sys.modules.get("bnfold.formats.onnx.model")
    if onnx_model is not None and isinstance(model, onnx_model.OnnxModel):
        from bnfold.formats.onnx.statistics import OnnxStatistics

        return OnnxStatistics(model)
    from bnfold.formats.torch.module import TorchModel
    from bnfold.formats.torch.statistics import TorchStatistics

    if isinstance(model, TorchModel):
        return TorchStatistics(model)
    raise UsageError(
        "an exported program (.pt2) cannot be calibrated",
        remedy="calibrate the module, or its state_dict with --model, and export it again",
    )


@contextmanager
def torch_needed() -> Iterator[None]:
    """UsageError where torch, or safetensors, is asked for inside and not installed."""
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name not in {"torch", "safetensors"}:
            raise
        raise UsageError(
            f"this needs {error.name}, which is not installed", remedy="install it: pip install 'bnfold[torch]'"
        ) from error
