"""Other inputs than those that were recorded: another number of samples, other values, other sizes of images."""

from __future__ import annotations

import torch
from torch.utils._pytree import tree_leaves, tree_map

from bnfold.formats.torch_running import Inputs

LARGE, SMALL, MULTIPLE = 96, 64, 32
"""Images from ``LARGE`` on are tried at about a third of their size, but not below ``SMALL``: a tenth of the work.

Networks halve images up to five times, so that sizes are multiples of 2⁵.
"""


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


def other_images(inputs: Inputs) -> Inputs | None:
    """Another number of images, smaller ones, of other values; None where no input is an image that can be smaller.

    The values are drawn from those that are there: they have the right range and dtype, whatever that is.
    """
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
            smaller = (max(SMALL, length // 3 // MULTIPLE * MULTIPLE) for length in leaf.shape[2:])
            shape = (*shape[:2], *smaller)
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
