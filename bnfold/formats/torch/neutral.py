"""Values with which a batch norm changes nothing, not a bit: found, and then tried."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain, islice, product
from typing import Any

import torch
from torch.utils._pytree import tree_leaves, tree_map

from bnfold.formats.torch.calls import Call, Ref

MOST_TENSORS = 5
"""So many stored tensors make up a batch norm that is written out; the search grows with their power."""
MOST_TRIES = 4096
"""So many values are tried; a batch norm of four tensors with one ε has 5⁴."""
PROBE_SIZE = 3
"""The length of the spatial axes of a probe."""


def neutral_batch_norm(
    parameters: Sequence[torch.Tensor | None], epsilon: float, *, rank: int, dtype: torch.dtype
) -> list[torch.Tensor] | None:
    """γ, β, μ and σ², where they are given, for which ``batch_norm`` returns its input; None where there are none.

    σ² + ε is a power of 4, and γ its root: 1/√(σ² + ε) is exact then. Without γ that power must be 1.
    """
    power = 0 if epsilon <= 1 else math.ceil(math.log(epsilon, 4))
    wanted = (2.0**power, 0.0, 0.0, 4.0**power - epsilon)
    values = [
        None if tensor is None else torch.full_like(tensor, value, requires_grad=False)
        for tensor, value in zip(parameters, wanted, strict=True)
    ]
    gamma, beta, mean, variance = values
    if mean is None or variance is None:
        return None

    def returned(probe: torch.Tensor) -> torch.Tensor:
        cudnn = torch.backends.cudnn.enabled
        return torch.batch_norm(probe, gamma, beta, mean, variance, False, 0.0, epsilon, cudnn)  # noqa: FBT003 - aten's

    with torch.no_grad():
        probes = _probes(mean.numel(), rank, dtype, mean.device)
        exact = all(torch.equal(returned(probe), probe) for probe in probes)
    return [value for value in values if value is not None] if exact else None


def _probes(channels: int, rank: int, dtype: torch.dtype, device: torch.device) -> list[torch.Tensor]:
    """Inputs of many magnitudes; torch has a kernel of its own for images whose channels come last."""
    shape = (2, channels, *[PROBE_SIZE] * (rank - 2))
    generator = torch.Generator().manual_seed(0)
    probe = torch.randn(shape, generator=generator) * 10.0 ** torch.randint(-4, 5, shape, generator=generator)
    probe = probe.to(device=device, dtype=dtype)
    is_image = rank == len(("N", "C", "H", "W"))
    return [probe, probe.contiguous(memory_format=torch.channels_last)] if is_image else [probe]


def neutral_tensors(
    tensors: Mapping[str, torch.Tensor], calls: Sequence[Call], is_neutral: Callable[[Mapping[str, torch.Tensor]], bool]
) -> dict[str, torch.Tensor] | None:
    """Values for stored tensors such that what ``calls`` compute from them is neutral; None where none are found.

    Tried are 0, 1, and 1 − c for every number c in the code, ε among them, with its neighbours.
    """
    has_tables = any(tensor.numel() > max(tensor.shape, default=1) for tensor in tensors.values())
    if len(tensors) > MOST_TENSORS or has_tables:
        return None  # of a table, another run may use another row
    numbers = {leaf for call in calls for leaf in tree_leaves(dict(call.arguments)) if isinstance(leaf, float)}
    candidates = [
        _candidates(tensor, sorted(number for number in numbers if 0 < number < 1)) for tensor in tensors.values()
    ]
    with torch.no_grad():
        for chosen in islice(product(*candidates), MOST_TRIES):
            values = dict(zip(tensors, chosen, strict=True))
            if is_neutral(replayed(calls, values)):
                return values
    return None


def _candidates(tensor: torch.Tensor, numbers: Iterable[float]) -> list[torch.Tensor]:
    """Uniform values of a stored tensor, without repetition."""
    like = torch.empty((), dtype=tensor.dtype)
    plain = [torch.full_like(like, value) for value in (0.0, 1.0)]
    rest = [torch.full_like(like, 1 - number) for number in numbers]
    ends = (torch.zeros_like(like), torch.full_like(like, 2.0))
    neighbours = [torch.nextafter(value, end) for value in rest for end in ends] if like.dtype in NEIGHBOURED else []
    values = dict.fromkeys(value.item() for value in chain(plain, rest, neighbours))
    return [torch.full_like(tensor, value, requires_grad=False) for value in values]


NEIGHBOURED = (torch.float32, torch.float64, torch.bfloat16)
"""The dtypes for which torch knows the next number."""


def replayed(calls: Iterable[Call], values: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """What recorded calls compute from other values, together with these."""
    known = dict(values)

    def resolved(leaf: Any) -> Any:  # noqa: ANN401 - an argument of any type
        return known[leaf.id] if isinstance(leaf, Ref) else leaf

    for call in calls:
        if call.function is None:
            raise ValueError(f"{call.op} is no call")
        result = call.function(**tree_map(resolved, dict(call.arguments)))
        made = {id(leaf): leaf for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor)}
        known |= dict(zip(call.outputs, made.values(), strict=True))
    return known
