"""What is known of values before the module runs: what it stores, what is computed from that alone, numbers in code."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bnfold.core.graph import Constant, Lock, Value
from bnfold.core.reason import Reason
from bnfold.formats.torch import lazy
from bnfold.formats.torch.arithmetic import NUMBER, ArithmeticRun
from bnfold.formats.torch.classes import BatchNorm, has_a_say
from bnfold.formats.torch.recording import Recording
from bnfold.formats.torch.trusted import a_or_an


def known_values(recording: Recording, runs: Iterable[ArithmeticRun]) -> dict[str, Value]:
    """By id, the stored tensors, what is computed from them alone, and the numbers that ``runs`` of arithmetic name."""
    values = {name: _stored_value(recording, name, tensor) for name, tensor in recording.tensors.items()}
    for name, tensor in recording.recorder.known.items():
        if recording.lineage.is_fixed(name) and tensor.is_floating_point():
            origin = ", ".join(sorted(recording.lineage.leaves((name,))))
            lock = Lock(Reason.WEIGHT_NOT_CONSTANT, f"it is computed from {origin}")
            values[name] = Value(name, _constant(name, tensor), lock)
    numbers = {value for run in runs for value in run.constants if value.startswith(NUMBER)}
    for name in numbers:
        number = np.array(float(name.removeprefix(NUMBER)))
        values[name] = Value(name, Constant(name, "float64", (), partial(np.copy, number)))
    return values


def _stored_value(recording: Recording, name: str, tensor: torch.Tensor) -> Value:
    """One stored tensor; one that serves more than one purpose may be read but not rewritten."""
    if has_a_say(tensor):
        return Value(name, None, Lock(Reason.HOOKED, f"it is {a_or_an(tensor)}, which has a say in what torch does"))
    if name in recording.unset:
        is_norm = any(isinstance(recording.parts[path], BatchNorm) for path in recording.owners(name))
        reason = Reason.PARAMETERS_NOT_CONSTANT if is_norm else Reason.WEIGHT_NOT_CONSTANT
        return Value(name, None, Lock(reason, f"it has no size and no values yet (lazy); {lazy.REMEDY}"))
    if name in recording.moved:
        return Value(name, None, Lock(Reason.WEIGHT_NOT_CONSTANT, "the run puts other values in its place"))
    if not _is_plain(tensor):
        return Value(name)
    if not recording.is_saved(name):
        lock = Lock(Reason.WEIGHT_NOT_CONSTANT, "it is a buffer that no state_dict holds")
        return Value(name, _constant(name, tensor), lock)
    users = recording.users[name]
    used = recording.further_uses(name, users if len(users) == 1 else ())
    return Value(name, _constant(name, tensor), Lock(Reason.WEIGHT_SHARED, f"it {used}") if used else None)


def read(tensor: torch.Tensor) -> NDArray[Any]:
    """The values of a stored tensor in NumPy; bfloat16 widened to float32."""
    detached = tensor.detach().cpu()
    return (detached.float() if detached.dtype is torch.bfloat16 else detached).numpy()


def _constant(name: str, tensor: torch.Tensor) -> Constant:
    return Constant(name, str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape), partial(read, tensor))


def _is_plain(tensor: torch.Tensor) -> bool:
    """Whether a tensor is an ordinary array of real floats, not a sparse, quantised or wrapped one."""
    is_wrapped = type(tensor).__torch_dispatch__ is not torch.Tensor.__torch_dispatch__
    return tensor.is_floating_point() and tensor.layout is torch.strided and not (tensor.is_meta or is_wrapped)
