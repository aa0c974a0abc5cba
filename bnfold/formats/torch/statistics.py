"""New statistics for the batch norms of a PyTorch module: which have none, what goes into each, and storing them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn

from bnfold.core.depth import depths
from bnfold.core.graph import Node
from bnfold.core.reason import Reason
from bnfold.core.rounding import F64Array, rounded
from bnfold.core.traits import BatchNormTraits
from bnfold.errors import InputError
from bnfold.formats.statistics import StoredStatistics, require_fitting
from bnfold.formats.torch.capture import capture
from bnfold.formats.torch.classes import BatchNorm, is_known
from bnfold.formats.torch.copies import structural_copy
from bnfold.formats.torch.lazy import require_initialised
from bnfold.formats.torch.running import Inputs, run
from bnfold.formats.torch.structure import Structure, gain_statistics
from bnfold.formats.torch.tensors import as_stored

if TYPE_CHECKING:
    from bnfold.formats.torch.module import TorchModel


class TorchStatistics:
    """The batch norms that a run of a module reaches, and their statistics; ``store`` changes a copy in inference mode.

    Raises InputError where the statistics of each batch are used in a way that no module's own could replace.
    """

    format: Literal["torch"] = "torch"

    def __init__(self, model: TorchModel) -> None:
        self.model = model
        require_initialised(model.module)
        self._captured = capture(model.runnable, model.inputs)
        self._module = structural_copy(model.runnable, share_buffers=True).eval()
        self._nodes = [node for node in self._captured.view.batch_norms if isinstance(node.traits, BatchNormTraits)]
        self._times = _times_run(self._module, model.inputs)
        parts = (part for part in self._module.modules() if isinstance(part, BatchNorm))
        self._holders = Counter(id(part.running_mean) for part in parts if part.running_mean is not None)
        self.batch_norms = tuple(map(self._stored, self._nodes))
        gained = [index for index, stored in enumerate(self.batch_norms) if stored.is_missing]
        for index in gained:
            gain_statistics(self._part(index))
        self._structure = Structure(statistics=tuple(map(self._path, gained)))

    @property
    def notes(self) -> tuple[str, ...]:
        """See ``StatisticsOfModel``."""
        copies = tuple(
            f"its copy under {copy.key!r} keeps its own statistics: --key {copy.key} calibrates that one instead"
            for copy in self.model.companions
        )
        return self._captured.notes + copies

    def metadata(self, key: str) -> None:
        """See ``StatisticsOfModel``: a checkpoint says nothing."""

    @property
    def inputs(self) -> Inputs:
        """Example inputs of the module."""
        return self.model.inputs

    def depths(self, chosen: Collection[int]) -> dict[int, int]:
        """See ``StatisticsOfModel``."""
        view = self._captured.view
        reads = {
            node.index: [made.index for value in node.inputs if value and (made := view.producer(value)) is not None]
            for node in view.nodes
        }
        by_node = {self._nodes[index].index: index for index in chosen}
        return {by_node[node]: depth for node, depth in depths(reads, by_node).items()}

    def tap(self, index: int) -> str:
        """The name of the output by which a tapped module gives what goes into a batch norm."""
        return self._path(index)

    def tapped(self, chosen: Collection[int]) -> nn.Module:
        """A module that returns what goes into the ``chosen`` batch norms, by tap, and runs no further than that."""
        return _Tapped(structural_copy(self._module, share_buffers=False), tuple(map(self._path, chosen)))

    def store(self, index: int, mean: F64Array, variance: F64Array) -> None:
        """See ``StatisticsOfModel``."""
        part = self._part(index)
        for name, values in (("running_mean", mean), ("running_var", variance)):
            buffer = part.get_buffer(name)
            dtype = str(buffer.dtype).removeprefix("torch.")
            require_fitting(self._path(index), dtype, values)
            # A new tensor: the one there is the given module's own.
            setattr(part, name, as_stored(rounded(values, dtype), buffer))

    def finish(self) -> None:
        """See ``StatisticsOfModel``: the copy takes the module's place."""
        self.model.calibrate(self._module, self._structure)

    def _path(self, index: int) -> str:
        return self._captured.owners[self._nodes[index].index]

    def _part(self, index: int) -> nn.Module:
        return self._module.get_submodule(self._path(index))

    def _stored(self, node: Node) -> StoredStatistics:
        path = self._captured.owners[node.index]
        part = self._module.get_submodule(path)
        traits = node.traits
        if not isinstance(traits, BatchNormTraits):
            raise TypeError(f"{node.label!r} is no batch norm")
        missing = traits.training or None in node.inputs[3:5]
        obstacle, remedy = self._obstacle(path, part, training=traits.training)
        if missing and obstacle:
            raise InputError(f"the batch norm {node.label!r} cannot be calibrated: {obstacle}", remedy=remedy)
        constants = [self._captured.view.constant(value) for value in node.inputs[3:5]]
        mean, variance = (constant.load().astype("float64") if constant else None for constant in constants)
        return StoredStatistics(node.label, missing, mean, variance, traits.epsilon, obstacle)

    def _obstacle(self, path: str, part: nn.Module, *, training: bool) -> tuple[str, str]:
        """Why a batch norm cannot take new statistics, and what to do; nothing where it can."""
        if not isinstance(part, BatchNorm):
            return "it is a call of F.batch_norm, no module", "Use a batch norm of torch.nn in its place."
        if not is_known(part):
            return f"{type(part).__name__} has a forward method of its own", "Use the plain class."
        if training:
            return "code of the model's keeps it in training mode", "Let eval() put it into inference mode."
        if self._times[path] > 1:
            return f"it runs {self._times[path]} times, each with inputs of its own", (
                Reason.RUNS_MORE_THAN_ONCE.remedy.replace("convert again", "calibrate")
            )
        if self._holders[id(part.running_mean)] > 1 and part.running_mean is not None:
            return "another batch norm has the same statistics", "Give each batch norm buffers of its own."
        return "", ""


def _times_run(module: nn.Module, inputs: Inputs) -> Counter[str]:
    """How often each batch norm runs in one run of ``module``, by path."""
    scratch = structural_copy(module, share_buffers=False)
    times: Counter[str] = Counter()
    for path, part in scratch.named_modules():
        if isinstance(part, BatchNorm):
            part.register_forward_pre_hook(lambda *_, path=path: times.update([path]))
    run(scratch, inputs)
    return times


class _AllSeen(BaseException):
    """The run has given all that it is for."""


class _Tapped(nn.Module):
    """Runs a module up to where the inputs of all ``paths`` have been seen, and returns these by path."""

    def __init__(self, module: nn.Module, paths: Collection[str]) -> None:
        super().__init__()
        self.module = module
        self.paths = paths
        self.seen: dict[str, torch.Tensor] = {}
        for path in paths:
            module.get_submodule(path).register_forward_pre_hook(self._look(path), with_kwargs=True)
        self.eval()

    def forward(self, *args: Any, **kwargs: Any) -> dict[str, torch.Tensor]:  # noqa: ANN401 - what the module takes
        """The inputs of the batch norms."""
        self.seen = {}
        try:
            self.module(*args, **kwargs)
        except _AllSeen:
            pass
        else:
            missed = [path for path in self.paths if path not in self.seen]
            raise RuntimeError(f"these batch norms did not run: {', '.join(missed)}")
        seen, self.seen = self.seen, {}
        return seen

    def _look(self, path: str) -> Any:  # noqa: ANN401 - a hook, whose type torch does not name
        def look(_module: nn.Module, args: tuple[torch.Tensor, ...], kwargs: dict[str, torch.Tensor]) -> None:
            self.seen[path] = (args[0] if args else kwargs["input"]).clone()  # what is behind may write to it
            if len(self.seen) == len(self.paths):
                raise _AllSeen

        return look
