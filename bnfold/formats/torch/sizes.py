"""Whether the code of a module could know how large its tensors are: code that could not does the same at any size.

Code learns of sizes by asking for a shape, and in many other ways: by the number of pieces that a tensor splits into,
by values that depend on sizes, by an index that does not exist. What tells nothing of them can be listed, and is; all
else counts as a look. So does catching errors, which tell that a tensor is too small, and code of a tensor's own class.
Not seen is what asks a tensor past torch's overrides and runs no operator meanwhile: with these turned off, on a
thread that there was before, or by ``torch.utils.dlpack.to_dlpack``.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Collection, Hashable, Iterator, Mapping
from contextlib import AbstractContextManager
from types import CodeType, FrameType
from typing import Any, Self

import torch
from torch import nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode


class Sizes(TorchFunctionMode):
    """Sees which functions of torch are called, and whether operators run that nobody called in this way.

    It also tells of tensors whose memory leaves torch: a second mode for that would see every call once more.
    """

    def __init__(self) -> None:
        super().__init__()
        self.are_known = False
        """Whether the code may have learnt a size, or a value."""
        self._is_within = False
        """Whether a function of torch runs."""
        self.when_handed_out: Callable[[torch.Tensor], None] | None = None
        """What is told of tensors whose memory leaves torch."""
        self.otherwise: AbstractContextManager[object] | None = None
        """What is active while a function runs that may write to what it is given; None where it is so all the time."""
        self.outermost: CodeType | None = None
        """Beyond this code, which runs the module, nobody's errors are the model's."""
        self._passing_on: dict[int, CodeType] = {}
        """By ``id``, as its hash takes long: code that was on the way and handles no errors."""
        self._profile: Callable[..., object] | None = None
        """What others have asked Python to call in new threads."""

    def __enter__(self) -> Self:
        super().__enter__()  # type: ignore[no-untyped-call]  # torch has no types here
        self._profile = threading.getprofile()
        threading.setprofile(self._note_thread)
        return self

    def __exit__(self, *details: object) -> None:
        threading.setprofile(self._profile)
        super().__exit__(*details)  # type: ignore[no-untyped-call]  # as above

    def _note_thread(self, *_event: object) -> None:
        """A thread starts, on which this mode sees nothing; from here on it is as it would have been."""
        self.are_known = True
        sys.setprofile(self._profile)

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: Collection[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> object:
        self.are_known = (
            self.are_known
            or func not in SILENT
            or not PLAIN.issuperset(types)
            or self._catches_errors(sys._getframe(1))  # noqa: SLF001 - whose code calls
        )
        if func in HANDING_OUT and self.when_handed_out is not None:
            self.when_handed_out(args[0])
        outside, self._is_within = self._is_within, True
        try:
            if self.otherwise is None or (func in PURE and not _writes(kwargs)):
                return func(*args, **(kwargs or {}))
            with self.otherwise:
                return func(*args, **(kwargs or {}))
        finally:
            self._is_within = outside

    def note_operator(self, types: Collection[type], result: object) -> None:
        """An operator has run: one that no function of torch calls is TorchScript's, or an extension's, which may know.

        So may code of a tensor's class, and what is given a tensor where a number is due, and takes it out.
        """
        if types or not self._is_within or isinstance(result, NUMBERS):
            self.are_known = True

    def _catches_errors(self, frame: FrameType | None) -> bool:
        """Whether code on the way to ``frame`` handles errors, by ``try`` or ``with``; torch's own passes them on."""
        while frame is not None:
            code = frame.f_code
            if id(code) not in self._passing_on:
                if code is self.outermost:
                    return False
                module = str(frame.f_globals.get("__name__", ""))  # code that was made by exec may have none
                if code.co_exceptiontable and module.partition(".")[0] not in PASSING_ON:
                    return True
                self._passing_on[id(code)] = code
            frame = frame.f_back
        return False


def _writes(kwargs: Mapping[str, object] | None) -> bool:
    """Whether keywords tell a function to write to one of its arguments."""
    return bool(kwargs and (kwargs.get("inplace") or kwargs.get("out") is not None))


def _functions(names: str) -> Iterator[Hashable]:
    """The functions and methods of these names, wherever torch has them."""
    for name in names.split():
        places = (torch, torch.Tensor, functional, torch._C._nn)  # noqa: SLF001 - where functional has its own from
        yield from (getattr(place, name) for place in places if hasattr(place, name))


PLAIN = frozenset({torch.Tensor, nn.Parameter})
"""Classes of tensors that leave to torch what its functions do."""
NUMBERS = (bool, int, float, complex)
PASSING_ON = frozenset({"torch", __name__.partition(".")[0]})
"""Whose code handles errors only to clean up."""

HANDING_OUT = frozenset(_functions("untyped_storage data_ptr numpy __array__ __dlpack__"))
"""What gives memory away without an operator: to whoever reads it, as pickle and torch.save do, or writes there."""

PURE_NAMES = (
    "conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d linear "
    "max_pool1d max_pool2d max_pool3d avg_pool1d avg_pool2d avg_pool3d "
    "adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool2d "
    "relu relu6 hardtanh leaky_relu elu selu celu gelu silu mish "
    "hardswish hardsigmoid sigmoid logsigmoid softplus softsign tanh prelu "
    "softmax log_softmax dropout dropout1d dropout2d dropout3d alpha_dropout feature_dropout "
    "add sub mul div neg abs exp sqrt pow square clamp clamp_min clamp_max "
    "__add__ __radd__ __sub__ __rsub__ __mul__ __rmul__ __truediv__ __neg__ "
    "cat concat stack flatten mean sum amax transpose permute movedim swapaxes unsqueeze pixel_shuffle "
    "pad contiguous clone detach dim"
)
WRITING_NAMES = (
    "batch_norm relu_ hardtanh_ leaky_relu_ elu_ silu_ hardswish_ sigmoid_ tanh_ add_ sub_ mul_ div_ clamp_ "
    "__iadd__ __isub__ __imul__"
)
PROPERTIES = frozenset(
    getattr(torch.Tensor, name).__get__ for name in ("ndim", "dtype", "device", "layout", "requires_grad", "is_cuda")
)

PURE = frozenset(_functions(PURE_NAMES)) | PROPERTIES
"""What gives tensors, or says of one what holds at any size, and writes only where its keywords ask for that."""
SILENT = PURE | frozenset(_functions(WRITING_NAMES))
"""What tells nobody a size: code that calls nothing else knows none."""
