"""Whether two modules compute the same, as far as rounding lets them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import nn
from torch.utils._pytree import tree_map

from bnfold.errors import InputError
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
NUDGES = 3
"""So many times each number moves by half an ulp, up or down: what chaos makes of one of these says little."""
NUDGE_FACTOR = 4
"""In float64 a folded module may be so many times as far away as the farthest of these."""
CHAOTIC = 0.5
"""Where half an ulp in each number moves outputs this far, relative to the largest, they are made of rounding."""


def agree(
    expected: Sequence[torch.Tensor],
    actual: Sequence[torch.Tensor],
    original: nn.Module,
    inputs: Inputs,
    *,
    runs: int = 1,
    folded: nn.Module | None = None,
) -> bool:
    """Whether outputs agree within the tolerance or, beyond it, are no farther apart than rounding explains.

    A copy of ``original`` computed ``expected`` from ``inputs`` in the last of so many ``runs``. With ``folded``,
    a copy of which computed ``actual``, both are compared in float64 too, where the folded numbers alone are rounded.
    InputError where rounding decides over the outputs.
    """
    if agree_within(expected, actual, TOLERANCES):
        return True
    dtypes = recorded(original, inputs).dtypes.values()
    if any(dtype.is_floating_point and dtype not in TOLERANCES for dtype in dtypes):
        is_close = agree_within(expected, actual, {})
    else:
        moved = outputs_of(original, tree_map(_moved, inputs), runs=runs)
        is_close = len(actual) == len(expected) == len(moved) and all(
            _error(before, after) <= _tolerance(before, beside)
            for before, after, beside in zip(expected, actual, moved, strict=True)
        )
    return is_close or (folded is not None and _agree_in_float64(original, folded, inputs, runs))


def _agree_in_float64(original: nn.Module, folded: nn.Module, inputs: Inputs, runs: int) -> bool:
    """Whether no more than the rounding of the folded numbers keeps two modules apart; False where neither tells.

    With activations in float64 the folded numbers alone are rounded, and each of them once. What half an ulp in each
    number of ``original`` does shows how much of that is to be expected.
    """
    wide: Inputs = tree_map(_widened, inputs)
    try:
        expected = outputs_of(_in_float64(original), wide, runs=runs)
        actual = outputs_of(_in_float64(folded), wide, runs=runs)
        nudged = [outputs_of(_in_float64(original, nudge=seed), wide, runs=runs) for seed in range(NUDGES)]
        again = outputs_of(_in_float64(original), wide, runs=runs)
    except Exception:  # noqa: BLE001 - its code may name a dtype, or refuse to change its own; then nothing is known
        return False
    if {*map(len, nudged), len(actual)} != {len(expected)} or not agree_within(expected, again, TOLERANCES):
        return False
    moves = [[_error(before, item) for item in beside] for before, *beside in zip(expected, *nudged, strict=True)]
    too_far = [
        moved
        for moved, before, after in zip(moves, expected, actual, strict=True)
        if _error(before, after) > _nudge_tolerance(moved)
    ]
    if any(max(moved) > CHAOTIC for moved in too_far):
        raise InputError(
            "the model magnifies rounding: half an ulp in each of its numbers changes its outputs beyond recognition",
            where="in its own dtype nothing shows whether a fold is right",
            remedy="look for batch norms whose variances are far below those of their inputs; or fold model.double()",
        )
    return not too_far


def _nudge_tolerance(moved: Sequence[float]) -> float:
    """The tolerance in float64 of an output that half an ulp in each number moves so far, each time in other ways."""
    exact = TOLERANCES[torch.float64]
    return exact if min(moved) > CHAOTIC else max(min(NUDGE_FACTOR * max(moved), CHAOTIC), exact)


def _in_float64(module: nn.Module, *, nudge: int | None = None) -> nn.Module:
    """A copy in float64; with the seed ``nudge`` each of its numbers moves by half an ulp of the dtype that it had.

    TypeError where a parameter is of a kind that copies share.
    """
    scratch = scratch_copy(module)
    if not {id(tensor) for tensor in module.parameters()}.isdisjoint(map(id, scratch.parameters())):
        raise TypeError("a parameter of the module's own would change")
    generator = torch.Generator().manual_seed(nudge or 0)
    for tensor in [*scratch.parameters(), *scratch.buffers()]:
        if not tensor.is_floating_point():
            continue
        wide = tensor.data.double()
        if nudge is not None:
            signs = torch.randint(0, 2, wide.shape, generator=generator).to(wide) * 2 - 1
            wide = wide * (1 + signs * torch.finfo(tensor.dtype).eps / 2)
        tensor.data = wide
    return scratch


def _widened(value: object) -> object:
    return value.double() if isinstance(value, torch.Tensor) and value.is_floating_point() else value


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
