"""bnfold's own check of a folded module: it is run beside the original before anybody gets it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.utils._pytree import tree_leaves, tree_map

from bnfold.errors import InputError, InternalError, UsageError
from bnfold.formats.torch_running import Inputs, output_tensors, run, structural_copy
from bnfold.formats.torch_trusted import first_line

SELF_CHECK_TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-3}
"""How far the folded module's outputs may be from the recorded ones, relative to the largest: a net for mistakes of
bnfold's own, wide enough for rounding in deep networks. Half precision gets ``HALF_TOLERANCE``."""
HALF_TOLERANCE = 0.1


def check_same_outputs(folded: nn.Module, inputs: Inputs, expected: Sequence[torch.Tensor]) -> None:
    """Run the folded module on the recorded inputs; InternalError where it computes something else.

    InputError where it fails: code of the user's asks a batch norm for what an Identity does not have.
    """
    try:
        actual = _outputs(folded, inputs)
    except UsageError as error:
        raise InputError(
            f"the model's own code needs a batch norm that was folded: {first_line(error.__cause__ or error)}",
            where="it runs on the example inputs, and no longer does once folded",
            remedy="leave that batch norm out with --skip (skip=)",
        ) from error
    require_close(expected, actual)


def require_close(expected: Sequence[torch.Tensor], actual: Sequence[torch.Tensor]) -> None:
    """InternalError where a folded model computed something else than the original."""
    if not _all_close(expected, actual):
        raise InternalError(
            "the folded module computes something else than the original on the recorded inputs",
            where="nothing was written; a model that is not deterministic cannot be folded either",
            remedy="please report this model's structure; --skip (skip=) leaves batch norms out",
        )


def check_another_batch(original: nn.Module, folded: nn.Module, inputs: Inputs) -> None:
    """Run both with another number of samples; InputError where they differ.

    One run shows one path; ``if len(x) > 1`` around a batch norm is a common hack.
    """
    other = another_batch(inputs)
    if other is None:
        return
    try:
        expected = _outputs(original, other)
    except UsageError:  # its first axis is no batch, or the batch is fixed
        return
    try:
        same = _all_close(expected, _outputs(folded, other))
    except UsageError:
        same = False
    if not same:
        raise InputError(
            "the model takes another path for another number of samples, on which it cannot be folded",
            where="its outputs for the example inputs are right, those for another batch are not",
            remedy="leave the batch norms on that path out with --skip (skip=)",
        )


def another_batch(inputs: Inputs) -> Inputs | None:
    """The first sample alone or, where there is but one, twice; None where the inputs have no first axis in common."""
    sizes = {tuple(leaf.shape[:1]) for leaf in tree_leaves(inputs) if isinstance(leaf, torch.Tensor)}
    if len(sizes) != 1 or sizes <= {(), (0,)}:
        return None

    def changed(leaf: object) -> object:
        if not isinstance(leaf, torch.Tensor):
            return leaf
        return torch.cat([leaf, leaf]) if sizes == {(1,)} else leaf[:1]

    other: Inputs = tree_map(changed, inputs)
    return other


def _outputs(module: nn.Module, inputs: Inputs) -> list[torch.Tensor]:
    """What a copy computes: a batch norm that stayed in training mode writes to its buffers."""
    scratch = structural_copy(module, share_buffers=False)
    if module.training:
        scratch.eval()
    return output_tensors(run(scratch, inputs))


def _all_close(expected: Sequence[torch.Tensor], actual: Sequence[torch.Tensor]) -> bool:
    return len(actual) == len(expected) and all(map(_close, expected, actual))


def _close(before: torch.Tensor, after: torch.Tensor) -> bool:
    """Whether two outputs agree, NaN and Inf in the same places."""
    if before.shape != after.shape or before.dtype != after.dtype or before.layout != after.layout:
        return False
    before, after = before.to_dense(), after.to_dense()
    if before.is_complex():
        before, after = torch.view_as_real(before.resolve_conj()), torch.view_as_real(after.resolve_conj())
    if not before.is_floating_point():
        return torch.equal(before, after)
    tolerance = SELF_CHECK_TOLERANCE.get(before.dtype, HALF_TOLERANCE)
    wide_before, wide_after = before.double(), after.double()
    broken = ~wide_before.isfinite()
    if not torch.equal(broken, ~wide_after.isfinite()):
        return False
    # NaN becomes 0 and Inf ±1.8e308.
    if not torch.equal(wide_before[broken].nan_to_num(), wide_after[broken].nan_to_num()):
        return False
    errors = (wide_before - wide_after)[~broken].abs()
    return bool((errors <= tolerance * wide_before[~broken].abs().max()).all()) if errors.numel() else True
