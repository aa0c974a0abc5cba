"""Other inputs than those that were recorded: another number of samples, other values, other sizes of images."""

from __future__ import annotations

import torch
from torch.utils._pytree import tree_leaves, tree_map

from bnfold.formats.torch.running import Inputs

LARGE = 96
"""Images from this height and width on are tried smaller."""
SMALLER = (32, 64)
"""The sizes, as far as the network takes them: a fraction of the work. Many halve their images five times.

Before these, images whose sizes are odd where the recorded ones are even, and the other way round: code that pads what
does not come out even asks for that.
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


def other_images(inputs: Inputs) -> list[Inputs]:
    """Another number of images, of other sizes and values, those first that are less work; none where there are none.

    The values are drawn from those that are there: they have the right range and dtype, whatever that is.
    """
    tensors = [leaf for leaf in tree_leaves(inputs) if isinstance(leaf, torch.Tensor)]
    lengths = SMALLER if any(map(_is_large, tensors)) else ()
    size = _batch(inputs)
    if size is None or not any(map(_is_image, tensors)):
        return []
    return [_images(inputs, size, length) for length in (None, *lengths)]


def _images(inputs: Inputs, size: int, length: int | None) -> Inputs:
    """Images of this height and width; without one, of that parity which the recorded ones have not."""
    generator = torch.Generator().manual_seed(1)

    def changed(leaf: object) -> object:
        if not isinstance(leaf, torch.Tensor):
            return leaf
        shape = (2 if size == 1 else 1, *leaf.shape[1:])
        if length is None and _is_image(leaf):
            shape = (*shape[:2], *(_other_parity(size, is_large=_is_large(leaf)) for size in leaf.shape[2:]))
        elif length is not None and _is_large(leaf):
            shape = (*shape[:2], length, length)
        chosen = torch.randint(leaf.numel(), shape, generator=generator).to(leaf.device)
        return leaf.flatten()[chosen]

    other: Inputs = tree_map(changed, inputs)
    return other


def _batch(inputs: Inputs) -> int | None:
    """The size of the first axis that all inputs have in common, if they do."""
    sizes = {tuple(leaf.shape[:1]) for leaf in tree_leaves(inputs) if isinstance(leaf, torch.Tensor)}
    return None if len(sizes) != 1 or sizes <= {(), (0,)} else next(iter(sizes))[0]


def _other_parity(size: int, *, is_large: bool) -> int:
    """Another length, odd for an even one; a small one for a large image."""
    return SMALLER[0] + 1 - size % 2 if is_large else size + 1


def _is_image(tensor: torch.Tensor) -> bool:
    """Whether a tensor is a batch of images, (N, C, H, W)."""
    return tensor.dim() == len(("N", "C", "H", "W")) and tensor.numel() > 0


def _is_large(tensor: torch.Tensor) -> bool:
    """Whether a tensor is a batch of images that can be made smaller."""
    return _is_image(tensor) and min(tensor.shape[2:]) >= LARGE
