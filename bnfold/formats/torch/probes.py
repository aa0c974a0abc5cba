"""Other inputs than those that were recorded: another number of samples, other values, other sizes of images."""

from __future__ import annotations

import torch
from torch.utils._pytree import tree_leaves, tree_map

from bnfold.formats.torch.running import Inputs

LARGE = 96
"""Images from this height and width on are tried smaller."""
SMALLER = (32, 64)
"""The sizes, as far as the network takes them: a fraction of the work. Many halve their images five times."""


def another_batch(inputs: Inputs) -> Inputs | None:
    """The first sample alone or, where there is but one, twice; None where the inputs have no first axis in common."""
    size = _batch(inputs)
    if size is None:
        return None

    def changed(leaf: object) -> object:
        if not isinstance(leaf, torch.Tensor):
            return leaf
        return torch.cat([leaf, leaf]) if size == 1 else leaf[:1]

    other: Inputs = tree_map(changed, inputs)
    return other


def other_images(inputs: Inputs) -> list[Inputs]:
    """Another number of images, smaller ones, of other values, smallest first; none where no input is a large image.

    The values are drawn from those that are there: they have the right range and dtype, whatever that is.
    """
    return [other for length in SMALLER if (other := _smaller_images(inputs, length)) is not None]


def _smaller_images(inputs: Inputs, length: int) -> Inputs | None:
    size = _batch(inputs)
    tensors = [leaf for leaf in tree_leaves(inputs) if isinstance(leaf, torch.Tensor)]
    if size is None or not any(map(_is_large, tensors)):
        return None
    generator = torch.Generator().manual_seed(1)

    def changed(leaf: object) -> object:
        if not isinstance(leaf, torch.Tensor):
            return leaf
        shape = (2 if size == 1 else 1, *leaf.shape[1:])
        if _is_large(leaf):
            shape = (*shape[:2], length, length)
        chosen = torch.randint(leaf.numel(), shape, generator=generator).to(leaf.device)
        return leaf.flatten()[chosen]

    other: Inputs = tree_map(changed, inputs)
    return other


def _batch(inputs: Inputs) -> int | None:
    """The size of the first axis that all inputs have in common, if they do."""
    sizes = {tuple(leaf.shape[:1]) for leaf in tree_leaves(inputs) if isinstance(leaf, torch.Tensor)}
    return None if len(sizes) != 1 or sizes <= {(), (0,)} else next(iter(sizes))[0]


def _is_large(tensor: torch.Tensor) -> bool:
    """Whether a tensor is a batch of images, (N, C, H, W), that can be made smaller."""
    return tensor.dim() == len(("N", "C", "H", "W")) and min(tensor.shape[2:]) >= LARGE and tensor.numel() > 0
