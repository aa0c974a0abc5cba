"""A run of a module in which its layers do no work: it shows what is called, and gives no values."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from bnfold.errors import UsageError
from bnfold.formats.torch.aten import Recorder
from bnfold.formats.torch.capture import stored_tensors
from bnfold.formats.torch.running import Inputs, output_tensors, run
from bnfold.formats.torch.scratch import scratch_copy

if TYPE_CHECKING:
    from torch._ops import OpOverload

Sizes = tuple[int, ...]


def light_run(module: nn.Module, inputs: Inputs, unread: Unread) -> tuple[Recorder, list[str]] | None:
    """What a run of a copy called, and the ids of its outputs; None where it fails, or somebody wants to see values."""
    scratch = scratch_copy(module)
    recorder = LightRecorder({names[0]: tensor for names, tensor in stored_tensors(scratch)}, unread)
    try:
        outputs = run(scratch, inputs, recorder)
    except UsageError:
        return None
    return recorder, list(map(recorder.id_of, output_tensors(outputs)))


CONV_DEFAULTS: tuple[Any, ...] = ((1,), (0,), (1,), 1)
"""Stride, padding, dilation and groups of a convolution that does not give them."""


class LightRecorder(Recorder):  # type: ignore[no-untyped-call]  # as for Recorder itself
    """Convolutions and linear layers of the usual kind only give zeros, in the shape and order that they would give.

    Meanwhile code that wants to see values is stopped.
    """

    def __init__(self, stored: Mapping[str, torch.Tensor], unread: Unread) -> None:
        super().__init__(stored)
        self._unread = unread

    def __enter__(self) -> Self:
        super().__enter__()  # type: ignore[no-untyped-call]  # torch has no types here
        self._unread.__enter__()  # type: ignore[no-untyped-call]  # nor here
        return self

    def __exit__(self, *details: object) -> None:
        self._unread.__exit__(*details)  # type: ignore[no-untyped-call]  # nor here
        super().__exit__(*details)

    def perform(self, func: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> object:
        """Do what is called, or what takes less time."""
        shape = None if kwargs or func not in SHAPES else SHAPES[func](*args)
        return func(*args, **kwargs) if shape is None else args[0].new_zeros(shape)


def _shape_of_conv(data: torch.Tensor, weight: torch.Tensor, _bias: object = None, *rest: Any) -> Sizes | None:  # noqa: ANN401 - numbers, and lists of them
    """What a convolution gives; None where it does not fit, or the channels come last."""
    stride, padding, dilation, groups = (*rest, *CONV_DEFAULTS[len(rest) :])
    spatial = data.dim() - len(("samples", "channels"))
    if data.dim() != weight.dim() or data.shape[1] != weight.shape[1] * groups or data.dtype is not weight.dtype:
        return None
    if not (data.is_contiguous() and weight.is_contiguous()):
        return None
    strides, paddings, dilations = (
        numbers if len(numbers) == spatial else [*numbers] * spatial for numbers in (stride, padding, dilation)
    )
    sizes = tuple(
        (size + 2 * pad - dilate * (kernel - 1) - 1) // step + 1
        for size, kernel, step, pad, dilate in zip(
            data.shape[2:], weight.shape[2:], strides, paddings, dilations, strict=True
        )
    )
    return (data.shape[0], weight.shape[0], *sizes) if min(sizes) > 0 else None


def _shape_of_linear(data: torch.Tensor, weight: torch.Tensor, _bias: object = None) -> Sizes | None:
    """What a linear layer gives; None where it does not fit."""
    fits = data.dim() and weight.dim() == len(("out", "in")) and data.shape[-1] == weight.shape[1]
    return (*data.shape[:-1], weight.shape[0]) if fits and data.dtype is weight.dtype else None


SHAPES: Mapping[object, Callable[..., Sizes | None]] = {
    torch.ops.aten.conv1d.default: _shape_of_conv,
    torch.ops.aten.conv2d.default: _shape_of_conv,
    torch.ops.aten.conv3d.default: _shape_of_conv,
    torch.ops.aten.linear.default: _shape_of_linear,
}


class Unread(TorchFunctionMode):
    """Fails where code asks for values in a way that no ATen call tells of; ``is_read`` then says so."""

    def __init__(self) -> None:
        super().__init__()
        self.is_read = False

    def __torch_function__(
        self, func: object, types: object, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> object:
        del types
        if getattr(func, "__name__", "") in READING:
            self.is_read = True
            raise UsageError("the code of the model looks at values")
        return func(*args, **(kwargs or {}))  # type: ignore[operator]  # torch calls it a function


READING = frozenset(
    {
        "numpy",
        "tolist",
        "data_ptr",
        "storage",
        "untyped_storage",
        "to_dlpack",
        "__array__",
        "__dlpack__",
        "__deepcopy__",
        "__reduce_ex__",
        "__repr__",
        "__format__",
    }
)
"""The methods of tensors that give values away."""
