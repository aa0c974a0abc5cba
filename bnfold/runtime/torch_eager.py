"""Running a PyTorch module in eager mode, under ``inference_mode``, on the devices of its example inputs."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.parameter import is_lazy

from bnfold.errors import InputError
from bnfold.runtime.session import Array, Feeds, TensorSpec, numpy_dtype

ExampleInputs = torch.Tensor | tuple[Any, ...] | Mapping[str, Any]


def open_session(module: nn.Module, example_inputs: ExampleInputs, *, is_batch_fixed: bool = False) -> TorchSession:
    """A session that calls ``module`` the way ``example_inputs`` does, in evaluation mode.

    A tensor or a tuple is positional (its tensors are ``input``, or ``input.0``, ``input.1``, …), a mapping is by
    keyword. What is no tensor is passed on unchanged. Dimension 0 of every tensor is the batch, of any size unless
    ``is_batch_fixed``. The caller's module is left as it is: one in training mode runs as a copy that shares its
    tensors.

    Threads are torch's own global setting: see ``limited_threads``.

    Raises InputError where the module is lazy and has no values yet, where it fails on its example inputs, or returns
    what is neither tensor nor number.
    """
    if any(map(is_lazy, chain(module.parameters(), module.buffers()))):
        raise InputError(
            "the module is lazy: some of its tensors have no values yet, and would get random ones",
            remedy="run the module once on an example, then save it",
        )
    by_keyword = isinstance(example_inputs, Mapping)
    named = _named_inputs(example_inputs)
    return TorchSession(_evaluating(module), named, by_keyword=by_keyword, is_batch_fixed=is_batch_fixed)


@contextmanager
def limited_threads(count: int | None) -> Iterator[None]:
    """Let torch compute with ``count`` threads for a while; None changes nothing."""
    before = torch.get_num_threads()
    if count is not None:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class TorchSession:
    """A ``Session`` on an ``nn.Module``. Outputs are named by where they stand in what the module returns.

    A lone tensor is ``output``, a sequence gives ``output.0``, ``output.1``, …, a mapping or a dataclass its keys;
    deeper levels are joined by dots, and None is left out.
    """

    def __init__(
        self, module: nn.Module, example: Mapping[str, Any], *, by_keyword: bool, is_batch_fixed: bool
    ) -> None:
        self.label = "PyTorch eager"
        self._module = module
        self._example = dict(example)
        self._by_keyword = by_keyword
        tensors = {name: value for name, value in example.items() if isinstance(value, torch.Tensor)}
        self.inputs = tuple(_spec(name, tensor.dtype, tensor.shape, is_batch_fixed) for name, tensor in tensors.items())
        self._devices = {tensor.device for tensor in tensors.values() if tensor.device.type != "cpu"}
        outputs = self._outputs(self._bound(self._example))
        self.outputs = tuple(_spec(name, array.dtype, array.shape, is_batch_fixed) for name, array in outputs.items())

    def run(self, feeds: Feeds) -> dict[str, Array]:
        """Outputs by name. Raises InputError where the module fails on the feeds, whatever it raises."""
        return self._outputs(self.prepare(feeds))

    def prepare(self, feeds: Feeds) -> Callable[[], object]:
        """A call that runs the module once and waits for its device. Raises InputError where the feeds do not fit."""
        known = {spec.name for spec in self.inputs}
        if feeds.keys() != known:
            raise InputError(f"the module takes {', '.join(sorted(known))}, and was fed {', '.join(sorted(feeds))}")
        fed = {name: _to_tensor(array).to(self._example[name]) for name, array in feeds.items()}
        call = self._bound(self._example | fed)
        return _waiting(call, self._devices) if self._devices else call

    def _bound(self, inputs: Mapping[str, Any]) -> Callable[[], object]:
        """The module with its arguments: one run of it, and nothing else."""
        positional = () if self._by_keyword else tuple(inputs.values())
        keywords = inputs if self._by_keyword else {}
        module = self._module

        def call() -> object:
            with torch.inference_mode():
                return module(*positional, **keywords)

        return call

    def _outputs(self, call: Callable[[], object]) -> dict[str, Array]:
        try:
            return {name: _to_array(leaf) for name, leaf in _leaves(call())}
        except Exception as error:  # the module is the user's code, which may raise anything
            message = str(error).partition("\n")[0] or type(error).__name__
            raise InputError(f"the module fails on its inputs: {message}") from error


def _evaluating(module: nn.Module) -> nn.Module:
    """``module``, or if any part of it is in training mode, a copy in evaluation mode that shares all tensors."""
    # An exported program's mode was settled when it was exported; its module has an eval() of its own that refuses.
    exported = "eval" in vars(module)
    # What TorchScript has frozen has no mode.
    if exported or not any(getattr(part, "training", False) for part in module.modules()):
        return module
    shared = {id(tensor): tensor for tensor in chain(module.parameters(), module.buffers())}
    try:
        return copy.deepcopy(module, shared).eval()
    except Exception as error:
        raise InputError(
            "the module is in training mode and cannot be copied to change that",
            remedy="call its eval() before handing it over",
        ) from error


def _named_inputs(example: ExampleInputs) -> Mapping[str, Any]:
    if isinstance(example, Mapping):
        return example
    if not isinstance(example, tuple):
        return {"input": example}
    return (
        {"input": example[0]} if len(example) == 1 else {f"input.{index}": item for index, item in enumerate(example)}
    )


def _leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:  # noqa: ANN401 - whatever a module returns
    """The tensors and numbers in ``value``, each with its name, in order."""
    if value is None:
        return
    if isinstance(value, torch.Tensor | int | float):
        yield name or "output", value
        return
    items: Iterable[tuple[object, Any]]
    if isinstance(value, Mapping):
        items, prefix = value.items(), name
    elif dataclasses.is_dataclass(value):
        items = ((field.name, getattr(value, field.name)) for field in dataclasses.fields(value))
        prefix = name
    elif isinstance(value, tuple | list):
        items, prefix = enumerate(value), name or "output"
    else:
        raise TypeError(f"it returns {type(value).__name__}, which is neither tensor nor number")
    for key, item in items:
        yield from _leaves(item, f"{prefix}.{key}" if prefix else str(key))


def _spec(
    name: str,
    dtype: torch.dtype | np.dtype[Any],
    shape: Iterable[int],
    is_batch_fixed: bool,  # noqa: FBT001 - private
) -> TensorSpec:
    sizes: tuple[int | str, ...] = tuple(shape)
    if sizes and not is_batch_fixed:
        sizes = ("batch", *sizes[1:])
    return TensorSpec(name, str(dtype).removeprefix("torch."), sizes)


def _to_tensor(array: Array) -> torch.Tensor:
    """``array`` copied into a tensor; bfloat16 by its bits, since torch does not know NumPy's."""
    own = np.array(array, order="C")
    if own.dtype == numpy_dtype("bfloat16"):
        return torch.from_numpy(own.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(own)


def _to_array(value: torch.Tensor | float) -> Array:
    """``value`` copied into an array: a model may return a buffer that its next run overwrites."""
    if not isinstance(value, torch.Tensor):
        return np.asarray(value)
    tensor = value.detach().cpu().clone()
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(numpy_dtype("bfloat16"))
    return tensor.numpy()


def _waiting(call: Callable[[], object], devices: Iterable[torch.device]) -> Callable[[], object]:
    """``call``, and then the end of what it has queued on ``devices``: an accelerator computes behind its caller."""
    waits = [(torch.get_device_module(device).synchronize, device) for device in devices]

    def finished() -> object:
        result = call()
        for wait, device in waits:
            wait(device)
        return result

    return finished
