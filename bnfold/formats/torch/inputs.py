"""Example inputs for a recorded run: given as tensors, described by shape, or inferred from the first layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import nn
from torch.nn.parameter import is_lazy

from bnfold.errors import UsageError
from bnfold.formats.torch.running import Inputs, run
from bnfold.formats.torch.scratch import scratch_copy
from bnfold.formats.torch.trusted import a_or_an, first_line
from bnfold.records import InputSpec, SampleShapes

BATCH = 2
"""Two samples: enough to see a batch axis."""
IMAGE_SIZES = (28, 224)
"""Heights and widths that are tried for a network that begins with a Conv2d."""


GivenInputs = (
    torch.Tensor
    | tuple[torch.Tensor, ...]
    | dict[str, torch.Tensor]
    | Sequence[torch.Tensor | tuple[torch.Tensor, ...] | dict[str, torch.Tensor]]
    | Sequence[InputSpec]
    | SampleShapes
    | None
)
"""A tensor, a tuple of them (positional), a dict (keywords), a list of such inputs, descriptions, or nothing.

Where nothing was given, there may be data, whose samples have shapes.
"""


def recorded_inputs(module: nn.Module, given: GivenInputs) -> list[Inputs]:
    """All that ``module`` is to be run on: every item of a list by itself. UsageError as for ``example_inputs``."""
    if isinstance(given, list) and given and not any(isinstance(item, InputSpec) for item in given):
        return [example_inputs(module, item) for item in given if not isinstance(item, InputSpec)]
    return [example_inputs(module, given)]


def example_inputs(module: nn.Module, given: GivenInputs) -> Inputs:
    """What to run ``module`` on. UsageError where nothing was given and the first layer does not tell."""
    if isinstance(given, torch.Tensor):
        return (given,)
    if isinstance(given, dict):
        values: list[object] = list(given.values())  # arguments of other kinds may be among them
        for array in (value for value in values if isinstance(value, np.ndarray)):
            raise _no_tensor(array)
        return given
    if isinstance(given, SampleShapes):
        return _sampled(module, given)
    if given is None or (isinstance(given, Sequence) and not given):
        return _inferred(module)
    items = tuple(given) if isinstance(given, Sequence) else (given,)
    specs = [item for item in items if isinstance(item, InputSpec)]
    tensors = tuple(item for item in items if isinstance(item, torch.Tensor))
    if len(specs) == len(items):
        return _described(module, specs)
    if len(tensors) == len(items):
        return tensors
    raise _no_tensor(next((item for item in items if not isinstance(item, torch.Tensor | InputSpec)), items))


def _no_tensor(item: object) -> UsageError:
    """What is in the place of a tensor, and how it becomes one."""
    remedy = "give a tensor, a tuple of tensors, a dict of tensors, or a list of such inputs"
    if isinstance(item, np.ndarray):
        remedy = "turn NumPy's arrays into tensors: torch.from_numpy(array)"
    elif isinstance(item, int):
        remedy = "a shape is given by an example of it: torch.zeros(1, 3, 224, 224)"
    return UsageError(f"the example inputs are neither tensors nor shapes, but hold {a_or_an(item)}", remedy=remedy)


def _described(module: nn.Module, specs: Sequence[InputSpec]) -> Inputs:
    """Random inputs of the described shapes: positional, or by keyword where every description has a name."""
    named = [spec for spec in specs if spec.name is not None]
    if named and len(named) < len(specs):
        raise UsageError("some inputs have names and some have none", remedy="give every --input a name, or none")
    generator = torch.Generator().manual_seed(0)
    device = next((tensor.device for tensor in module.parameters()), torch.device("cpu"))
    tensors = [_random(spec, generator).to(device) for spec in specs]
    if named:
        return {str(spec.name): tensor for spec, tensor in zip(specs, tensors, strict=True)}
    return tuple(tensors)


def _random(spec: InputSpec, generator: torch.Generator) -> torch.Tensor:
    """N(0, 1) for floats, 0 and 1 for integers and booleans."""
    dtype = getattr(torch, spec.dtype, None)
    if not isinstance(dtype, torch.dtype):
        raise UsageError(f"unknown dtype {spec.dtype!r} of an example input", remedy="write float32, float16, int64, …")
    try:
        if dtype.is_floating_point or dtype.is_complex:
            return torch.randn(spec.shape, generator=generator).to(dtype)
        return torch.randint(0, 2, spec.shape, generator=generator).to(dtype)
    except RuntimeError as error:  # torch has no MemoryError
        size = "x".join(map(str, spec.shape))
        raise UsageError(
            f"there is no memory for an example input of {size}", remedy="give a smaller --input (inputs=)"
        ) from error


def _inferred(module: nn.Module) -> Inputs:
    """An input that the first layer accepts and that the whole module runs on."""
    first = next((part for part in module.modules() if isinstance(part, nn.Linear | nn.Conv2d)), None)
    shapes: list[tuple[int, ...]] = []
    dtype = str(first.weight.dtype).removeprefix("torch.") if first else "float32"
    if first is None or is_lazy(first.weight):
        pass
    elif isinstance(first, nn.Linear):
        shapes = [(BATCH, first.weight.shape[1])]
    else:  # of a lazy layer that was loaded, the weight alone tells
        shapes = [(BATCH, first.weight.shape[1] * first.groups, size, size) for size in IMAGE_SIZES]
    return _first_that_runs(
        module,
        [InputSpec(shape, dtype) for shape in shapes],
        what="the model does not say what its inputs are",
        remedy="give an example: --input 1x3x224x224 (inputs= in Python)",
    )


def _sampled(module: nn.Module, samples: SampleShapes) -> Inputs:
    """An input like the samples, in the module's dtype: lying flat where its first layer is one for that."""
    floats = (tensor.dtype for tensor in module.parameters() if tensor.is_floating_point())
    dtype = str(next(floats, torch.float32)).removeprefix("torch.")
    first = next((part for part in module.modules() if isinstance(part, nn.Linear | nn.Conv2d)), None)
    flat = first.in_features if isinstance(first, nn.Linear) else None
    return _first_that_runs(
        module,
        [
            replace(spec, dtype=dtype if spec.dtype == "float32" else spec.dtype)
            for spec in sorted(samples.specs, key=lambda spec: spec.shape[1:] != (flat,))
        ],
        what="the samples do not fit the model",
        remedy="where it takes them in another shape, or takes more, say so with --input (inputs= in Python)",
    )


def _first_that_runs(module: nn.Module, specs: Sequence[InputSpec], *, what: str, remedy: str) -> Inputs:
    """The first input on which the whole module runs. UsageError where there is none."""
    tried = []
    for spec in specs:
        inputs = _described(module, (spec,))
        try:
            run(scratch_copy(module).eval(), inputs)
        except UsageError as error:
            tried.append(f"{'x'.join(map(str, spec.shape))}: {first_line(error.__cause__ or error)}")
        else:
            return inputs
    raise UsageError(what, where="; ".join(tried)[:300], remedy=remedy)
