"""The published networks bnfold is proved on: definitions, training, small trained files.

A network is a row in NETWORKS and a file of its own name, ``sample_models/NAME.py``, which offers

- ``RECIPE``: how it is trained;
- ``NAME()``: the untrained architecture, what ``--model sample_models.NAME:NAME`` means;
- ``train(job)``: a trained module;
- ``reproduce(trained, test, job)``, where ``published`` is set: our figures beside the source's;
- ``export(module)``, where PyTorch's exporter is not to be what writes its ONNX;
- ``batch_statistics()``, where ``batch_statistics`` is set: the architecture whose BNs use the batch's statistics.

The trained files that ship lie beside it, as ``NAME.onnx`` and ``NAME.safetensors``. This file imports without torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol, cast

if TYPE_CHECKING:
    from torch import nn

    from bnfold.data import DataSet
    from sample_models.figures import Figures
    from sample_models.jobs import Job, Recipe

HERE: Final = Path(__file__).parent


@dataclass(frozen=True)
class Network:
    """A row of the registry.

    ``shipped``: trained files are in the package; ``published``: there are figures to reproduce; ``batch_statistics``:
    it can be exported as it runs in training, too.
    """

    name: str
    summary: str
    source: str
    shipped: bool
    published: bool
    batch_statistics: bool = False

    @property
    def factory(self) -> str:
        """What ``--model`` takes."""
        return f"sample_models.{self.name}:{self.name}"

    def build(self) -> nn.Module:
        """The untrained architecture. Imports torch."""
        module: nn.Module = getattr(import_module(f"sample_models.{self.name}"), self.name)()
        return module

    def file(self) -> NetworkFile:
        """The network's own file. Imports torch."""
        return cast("NetworkFile", import_module(f"sample_models.{self.name}"))

    def weights(self, directory: Path = HERE) -> Path:
        """Where the trained state_dict lies in ``directory``."""
        return directory / f"{self.name}.safetensors"

    def onnx(self, directory: Path = HERE) -> Path:
        """Where the exported model lies in ``directory``."""
        return directory / f"{self.name}.onnx"


class NetworkFile(Protocol):
    """What a network's file offers; ``reproduce`` and ``batch_statistics`` only where the registry says so."""

    RECIPE: Recipe

    def train(self, job: Job) -> nn.Module:
        """The trained network, in evaluation mode."""
        ...

    def batch_statistics(self) -> nn.Module:
        """The untrained architecture whose BNs normalise by the batch they are given, also in evaluation mode."""
        ...

    def reproduce(self, trained: nn.Module, test: DataSet, job: Job) -> Figures:
        """Our figures beside the published ones; ``job`` is for what has to be trained anew."""
        ...


NETWORKS: Final = (
    Network(
        name="tinycnn",
        summary="conv 5×5, dense 1000, dense 10; two BNs; 63 MB",
        source="Ibarrondo & Önen 2018",
        shipped=False,
        published=True,
    ),
    Network(
        name="smallcnn",
        summary="plain, depthwise and grouped convolutions and dense layers; five BNs; 0.2 MB",
        source="ours: tinycnn's small sibling",
        shipped=True,
        published=False,
    ),
    Network(
        name="fcnet",
        summary="dense 5×100; five BNs, trained and exported without a framework; 0.5 MB",
        source="Stanford CS231n, assignment 2",
        shipped=True,
        published=True,
    ),
    Network(
        name="threelayer",
        summary="dense 256-256 with dropout; two BNs, trained and exported without a framework; 1.1 MB",
        source="Kristiadi (wiseodd) 2016",
        shipped=True,
        published=True,
    ),
    Network(
        name="dense32",
        summary="dense 32-32; two BNs; 0.1 MB",
        source="the TensorFlow batch-norm lab",
        shipped=True,
        published=True,
    ),
    Network(
        name="sigmoid100",
        summary="dense 100-100 with sigmoids; two BNs behind layers without bias; 0.4 MB",
        source="Pitis (R2RT) 2016",
        shipped=True,
        published=True,
        batch_statistics=True,
    ),
)
