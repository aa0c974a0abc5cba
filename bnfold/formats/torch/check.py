"""bnfold's own check of a folded module: it is run beside the original before anybody gets it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from bnfold.errors import InputError, InternalError, UsageError
from bnfold.formats.torch.copies import structural_copy
from bnfold.formats.torch.paths import FoldedPath
from bnfold.formats.torch.probes import another_batch, other_images
from bnfold.formats.torch.running import Inputs, output_tensors, run
from bnfold.formats.torch.trusted import first_line

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


def check_other_inputs(
    original: nn.Module, folded: nn.Module, inputs: Inputs, path: FoldedPath | None = None
) -> tuple[str, ...]:
    """Run both with another number of samples; InputError where they differ. Returns notes.

    One run shows one path; ``if len(x) > 1`` around a batch norm is a common hack. Large images are tried at another
    size too, and with other values: there is less to compute, and what holds then holds for the batch. Where both are
    seen to take the recorded ``path``, that is enough.
    """
    notes: tuple[str, ...] = ()
    if path is not None and _take(path, original, folded, inputs):
        return ()
    agree = next(
        (agree for other in other_images(inputs) if (agree := _agree(original, folded, other)) is not None), None
    )
    if agree:
        return ()
    if agree is False:
        notes = ("the model takes another path for images of other sizes; judged on the size of the example inputs",)
    other = another_batch(inputs)
    if other is not None and _agree(original, folded, other) is False:
        raise InputError(
            "the model takes another path for another number of samples, on which it cannot be folded",
            where="its outputs for the example inputs are right, those for another batch are not",
            remedy="leave the batch norms on that path out with --skip (skip=)",
        )
    return notes


def _take(path: FoldedPath, original: nn.Module, folded: nn.Module, inputs: Inputs) -> bool:
    """Whether both take ``path`` on the first of the other inputs on which the original runs."""
    others = (*other_images(inputs), another_batch(inputs))
    tried = (path.is_taken(original, folded, other) for other in others if other is not None)
    return next((taken for taken in tried if taken is not None), False)


def _agree(original: nn.Module, folded: nn.Module, inputs: Inputs) -> bool | None:
    """Whether both compute the same; None where the original does not run on such inputs."""
    try:
        expected = _outputs(original, inputs)
    except UsageError:  # its first axis is no batch, or its sizes are fixed
        return None
    try:
        return _all_close(expected, _outputs(folded, inputs))
    except UsageError:
        return False


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
