"""What a run does out of the recorder's sight: on another thread, in a library that is not torch's."""

from __future__ import annotations

import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from bnfold.formats.torch.aten import Recorder
from bnfold.formats.torch.running import Inputs, run
from bnfold.formats.torch.scratch import scratch_copy


class _Meeting(Recorder):  # type: ignore[no-untyped-call]  # as for its base class
    """A record that keeps the tensors which no call of the run has made."""

    def __init__(self) -> None:
        super().__init__({})
        self.met: list[torch.Tensor] = []

    def meet(self, tensor: torch.Tensor) -> None:
        """Keep it, so that no other tensor gets its place in memory."""
        self.met.append(tensor)


def works_out_of_sight(module: nn.Module, inputs: Inputs) -> bool:
    """Whether tensors come into a run that nobody has seen being made, and that were not there before.

    What is there in every run, such as a constant of the code, is the same object in a second run of the same copy.
    """
    scratch, first, second = scratch_copy(module), _Meeting(), _Meeting()
    run(scratch, inputs, first)
    run(scratch, inputs, second)
    lasting = set(map(id, first.met))
    given = [leaf for leaf in tree_leaves(inputs) if isinstance(leaf, torch.Tensor)]
    return any(id(tensor) not in lasting and not _is_among(tensor, given) for tensor in second.met)


def _is_among(tensor: torch.Tensor, given: list[torch.Tensor]) -> bool:
    """Whether a tensor is a copy of an input."""
    alike = (item for item in given if item.shape == tensor.shape and item.dtype == tensor.dtype)
    return any(bool((item == tensor).all()) for item in alike)
