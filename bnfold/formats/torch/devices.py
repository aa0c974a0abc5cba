"""The device that each tensor of a checkpoint was saved from: read, kept, and written again without that device.

torch.save writes beside each storage where it lies, and torch.load would put it there again. bnfold loads everything
into main memory, and folded tensors are made there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Final

import torch

_FIRST: Final = 0
"""Before torch's own taggers, which begin at 10."""


@dataclass
class Devices:
    """By storage, the device's name as the file has it. The storages must be kept alive by whoever asks."""

    named: dict[int, str] = field(default_factory=dict)

    def __call__(self, storage: Any, location: str) -> Any:  # noqa: ANN401 - what it is given, it returns
        """What torch.load calls for each storage (its ``map_location``): remember the device, and stay here."""
        if location != "cpu":
            self.named[storage.data_ptr()] = location
        return storage

    def of(self, tensor: torch.Tensor) -> str:
        """The device that a tensor was saved from; empty for main memory."""
        if tensor.layout is not torch.strided or tensor.is_meta:
            return ""
        return self.named.get(tensor.untyped_storage().data_ptr(), "")

    def giving(self, tensors: Mapping[torch.Tensor, str]) -> Devices:
        """These devices, and for each of ``tensors`` the one named."""
        added = {tensor.untyped_storage().data_ptr(): name for tensor, name in tensors.items() if name}
        return Devices(self.named | added)


_written: ContextVar[Devices | None] = ContextVar("_written", default=None)


@contextmanager
def written_as(devices: Devices) -> Iterator[None]:
    """While this lasts, torch.save names these devices."""
    token = _written.set(devices)
    try:
        yield
    finally:
        _written.reset(token)


def _tag(storage: Any) -> str | None:  # noqa: ANN401 - torch has three kinds of storages
    devices = _written.get()
    return None if devices is None else devices.named.get(storage.data_ptr())


def _nothing(_storage: object, _location: str) -> None:
    """Loading is left to torch's own."""


torch.serialization.register_package(_FIRST, _tag, _nothing)
