"""The sizes of a model's inputs: what the model says, completed by what the user says with ``--input``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from bnfold.errors import UsageError
from bnfold.records import InputSpec
from bnfold.runtime.session import TensorSpec


def fixed_batch(specs: Sequence[TensorSpec]) -> int | None:
    """The batch of a model that takes no other: its first input's dimension 0, if no input leaves that free."""
    first = [spec.shape[0] for spec in specs if spec.shape]
    fixed = [size for size in first if isinstance(size, int)]
    return fixed[0] if fixed and len(fixed) == len(first) else None


def with_sizes(inputs: Sequence[TensorSpec], sizes: Sequence[InputSpec]) -> tuple[TensorSpec, ...]:
    """``inputs`` with their free dimensions, dimension 0 (the batch) apart, filled in from ``sizes``.

    Sizes without a name go, in order, to the inputs that are not named. What a symbol turns out to be at one input
    holds at all of them. Raises UsageError where ``sizes`` name no input or contradict the model.
    """
    names = [spec.name for spec in inputs]
    given = {size.name: size for size in sizes if size.name is not None}
    for name in given:
        if name not in names:
            raise UsageError(f"--input names {name!r}", remedy=f"the model's inputs are {_listed(names)}")
    unnamed = [size for size in sizes if size.name is None]
    left = [name for name in names if name not in given]
    if len(unnamed) > len(left):
        raise UsageError("--input is given more often than the model has inputs", remedy=f"they are {_listed(names)}")
    given |= dict(zip(left, unnamed, strict=False))
    filled = [_filled(spec, given[spec.name]) if spec.name in given else spec for spec in inputs]
    symbols = _resolved_symbols(inputs, filled)
    return tuple(_substituted(spec, symbols) for spec in filled)


def known(spec: TensorSpec) -> TensorSpec:
    """``spec``, of which nothing but the batch is free. Raises UsageError otherwise."""
    if spec.shape is None:
        raise UsageError(
            f"the shape of input {spec.name!r} is not known",
            remedy=f"give it, with your sizes, as --input {spec.name}=1x3x224x224",
        )
    if any(not isinstance(dim, int) for dim in spec.shape[1:]):
        raise UsageError(
            f"not every size of input {spec.name!r} is known: {dimensions(spec.shape)}",
            remedy=f"give it, with your sizes, as --input {spec.name}={dimensions((1, *spec.shape[1:]))}",
        )
    return spec


def dimensions(shape: Sequence[int | str | None]) -> str:
    """A shape for people: ``1x3xheightx?``."""
    return "x".join("?" if dim is None else str(dim) for dim in shape) or "a scalar"


def _filled(spec: TensorSpec, given: InputSpec) -> TensorSpec:
    """``spec`` with the sizes of ``given``. The batch stays as the model has it: ``--batch`` decides on that."""
    if spec.shape is None:
        return replace(spec, shape=("batch", *given.shape[1:]) if given.shape else ())
    fits = len(spec.shape) == len(given.shape) and all(
        not isinstance(dim, int) or dim == size for dim, size in zip(spec.shape[1:], given.shape[1:], strict=True)
    )
    if not fits:
        raise UsageError(
            f"--input {dimensions(given.shape)} does not fit input {spec.name!r}",
            remedy=f"the model says {dimensions(spec.shape)}",
        )
    return replace(spec, shape=(*spec.shape[:1], *given.shape[1:]))


def _resolved_symbols(before: Sequence[TensorSpec], after: Sequence[TensorSpec]) -> dict[str, int]:
    """What each symbol of ``before``, the batch's apart, has become in ``after``."""
    pairs = [
        pair
        for old, new in zip(before, after, strict=True)
        for pair in zip((old.shape or ())[1:], (new.shape or ())[1:], strict=old.shape is not None)
    ]
    return {dim: size for dim, size in pairs if isinstance(dim, str) and isinstance(size, int)}


def _substituted(spec: TensorSpec, symbols: Mapping[str, int]) -> TensorSpec:
    if not spec.shape:
        return spec
    rest = (symbols.get(dim, dim) if isinstance(dim, str) else dim for dim in spec.shape[1:])
    return replace(spec, shape=(*spec.shape[:1], *rest))


def _listed(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names)) or "none"
