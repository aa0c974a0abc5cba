"""Whether two modules compute the same, as far as rounding lets them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import nn
from torch.utils._pytree import tree_map

from bnfold.formats.torch.aten import Recorder
from bnfold.formats.torch.running import Inputs, output_tensors, run
from bnfold.formats.torch.scratch import scratch_copy

TOLERANCES: Mapping[torch.dtype, float] = {torch.float64: 1e-10, torch.float32: 1e-3}
"""How far the folded module's outputs may be from the recorded ones, relative to the largest: a net for mistakes of
bnfold's own, wide enough for rounding in deep networks. Half precision gets ``HALF_TOLERANCE``."""
HALF_TOLERANCE = 0.1
ROUNDING_FACTOR = 16
"""A network that magnifies rounding is given so many times what it makes of one ulp in its inputs, as in ``verify``."""
CEILING_FACTOR = 100
"""But never more than so many times the tolerance."""


def agree(
    expected: Sequence[torch.Tensor],
    actual: Sequence[torch.Tensor],
    original: nn.Module,
    inputs: Inputs,
    *,
    runs: int = 1,
) -> bool:
    """Whether outputs agree; where they do not at first, as far as ``original`` rounds on the way to ``expected``.

    That is what a copy of ``original`` computed from ``inputs`` in the last of so many ``runs``.
    """
    if agree_within(expected, actual, TOLERANCES):
        return True
    dtypes = recorded(original, inputs).dtypes.values()
    if any(dtype.is_floating_point and dtype not in TOLERANCES for dtype in dtypes):
        return agree_within(expected, actual, {})
    moved = outputs_of(original, tree_map(_moved, inputs), runs=runs)
    return len(actual) == len(expected) == len(moved) and all(
        _error(before, after) <= _tolerance(before, beside)
        for before, after, beside in zip(expected, actual, moved, strict=True)
    )


def _tolerance(output: torch.Tensor, beside: torch.Tensor) -> float:
    """The tolerance of an output which is ``beside`` where the inputs are one ulp away."""
    base = TOLERANCES.get(output.dtype, HALF_TOLERANCE)
    return min(max(base, ROUNDING_FACTOR * _error(output, beside)), CEILING_FACTOR * base)


def agree_within(
    expected: Sequence[torch.Tensor], actual: Sequence[torch.Tensor], tolerances: Mapping[torch.dtype, float]
) -> bool:
    """Whether outputs agree, each within the tolerance for its dtype."""
    return len(actual) == len(expected) and all(
        _error(before, after) <= tolerances.get(before.dtype, HALF_TOLERANCE)
        for before, after in zip(expected, actual, strict=True)
    )


def outputs_of(module: nn.Module, inputs: Inputs, *, runs: int = 1) -> list[torch.Tensor]:
    """What a copy computes, in the last of so many runs: it may keep something from run to run."""
    scratch = scratch_copy(module)
    for _ in range(runs - 1):
        run(scratch, inputs)
    return output_tensors(run(scratch, inputs))


def recorded(module: nn.Module, inputs: Inputs) -> Recorder:
    """A record of another run."""
    recorder = Recorder({})
    run(scratch_copy(module), inputs, recorder)
    return recorder


def _moved(value: object) -> object:
    """Every other float at its neighbour."""
    if not isinstance(value, torch.Tensor) or value.dtype not in TOLERANCES:
        return value
    towards = torch.full(value.shape, torch.inf, dtype=value.dtype, device=value.device)
    towards.view(-1)[::2] = -torch.inf
    return torch.nextafter(value, towards)


def _error(before: torch.Tensor, after: torch.Tensor) -> float:
    """How far two outputs are apart, relative to the largest.

    Infinitely, where they are of different kinds or shapes, integers differ, or NaN and Inf are in other places.
    """
    if before.shape != after.shape or before.dtype != after.dtype or before.layout != after.layout:
        return torch.inf
    before, after = before.detach().to_dense(), after.detach().to_dense()
    if before.is_complex():
        before, after = torch.view_as_real(before.resolve_conj()), torch.view_as_real(after.resolve_conj())
    if not before.is_floating_point():
        return 0.0 if torch.equal(before, after) else torch.inf
    wide_before, wide_after = before.double(), after.double()
    broken = ~wide_before.isfinite()
    if not torch.equal(broken, ~wide_after.isfinite()):
        return torch.inf
    # NaN becomes 0 and Inf ±1.8e308.
    if not torch.equal(wide_before[broken].nan_to_num(), wide_after[broken].nan_to_num()):
        return torch.inf
    errors = (wide_before - wide_after)[~broken].abs()
    if not errors.numel() or not errors.any():
        return 0.0
    scale = wide_before[~broken].abs().max().item()
    return errors.max().item() / scale if scale else torch.inf
