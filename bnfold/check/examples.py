"""Example inputs and what is told by them: sizes that a model leaves open; examples of what a model says it takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bnfold.records import InputSpec
from bnfold.runtime.session import TensorSpec

if TYPE_CHECKING:
    from bnfold.formats.torch.inputs import GivenInputs


def described_sizes(inputs: GivenInputs) -> tuple[InputSpec, ...]:
    """The sizes that the user described or gave examples of, for dimensions that a model leaves open."""
    given: Any = inputs
    if isinstance(given, list) and given and not isinstance(given[0], InputSpec):
        return described_sizes(given[0])
    named = given.items() if isinstance(given, Mapping) else []
    unnamed = given if isinstance(given, Sequence) else [] if named else [given]
    sizes = [*named, *((None, item) for item in unnamed)]
    return tuple(
        item if isinstance(item, InputSpec) else InputSpec(tuple(item.shape), name=name)
        for name, item in sizes
        if hasattr(item, "shape")
    )


def examples_for(inputs: Sequence[TensorSpec]) -> list[InputSpec] | None:
    """Examples of what a model says that it takes; None where it leaves other sizes open than the number of samples."""
    examples = list(filter(None, map(_example_of, inputs)))
    return examples if len(examples) == len(inputs) else None


def _example_of(spec: TensorSpec) -> InputSpec | None:
    """An example of an input, of two samples where it takes any number."""
    if spec.shape is None:
        return None
    shape = (2 if axis == 0 and not isinstance(size, int) else size for axis, size in enumerate(spec.shape))
    sizes = tuple(size for size in shape if isinstance(size, int))
    return InputSpec(sizes, spec.dtype) if len(sizes) == len(spec.shape) else None
