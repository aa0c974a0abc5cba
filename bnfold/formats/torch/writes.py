"""What sees every call of a run, and takes back what the run writes to the parameters."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from bnfold.formats.torch.copies import storage_of
from bnfold.formats.torch.sizes import Sizes

if TYPE_CHECKING:
    from torch._ops import OpOverload


@dataclass(frozen=True, eq=False)
class _Kept:
    """A tensor, a copy of its values, and of how many bytes its memory was; 0 where it has none."""

    tensor: torch.Tensor
    values: torch.Tensor
    size: int

    @classmethod
    def of(cls, tensor: torch.Tensor) -> _Kept:
        """What is needed to have ``tensor`` as it is."""
        has_memory = storage_of(tensor) != id(tensor)
        return cls(tensor, tensor.detach().clone(), tensor.untyped_storage().nbytes() if has_memory else 0)

    def put_back(self) -> None:
        """Let the tensor have its values again, and memory for them: code may free that after use."""
        if self.size and self.tensor.untyped_storage().nbytes() < self.size:
            self.tensor.untyped_storage().resize_(self.size)
        self.tensor.detach().copy_(self.values)


class WritesUndone(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's base class has no types
    """Parameters that a run writes to, which a copy shares with the module that was given, get their values back."""

    def __init__(self, *, sees_all: bool = True) -> None:
        """Without ``sees_all``, operators are seen only where a function may write: the module is known to call others.

        What TorchScript, or an extension of torch, does by itself is not seen then.
        """
        super().__init__()  # type: ignore[no-untyped-call]
        self._protected: defaultdict[int, list[torch.Tensor]] = defaultdict(list)
        self._before: dict[int, list[_Kept]] = {}
        self.sizes = Sizes()
        """What the code of the run knows, where it is active too."""
        self.sizes.when_handed_out = self.note_handed_out
        self._sees_all = sees_all

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """No: torch would import its compiler (80 MB, a second) to tell it that there is nothing to compile here."""
        return False

    def protect(self, tensors: Iterable[torch.Tensor]) -> None:
        """Let these have their values back when the mode ends."""
        for tensor in tensors:
            self._protected[storage_of(tensor)].append(tensor)  # several may be parts of one memory

    def __torch_dispatch__(
        self,
        func: OpOverload,
        types: Collection[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> object:
        if func._schema.is_mutable:  # noqa: SLF001 - where torch says what is written
            self.keep(tree_iter((args, kwargs)))
        result = func(*args, **(kwargs or {}))
        self.sizes.note_operator(types, result)
        return result

    def note_handed_out(self, tensor: torch.Tensor) -> None:
        """Whoever has the memory of a tensor may write to it."""
        self.keep([tensor])

    def keep(self, about_to_be_written: Iterable[object]) -> None:
        """Copy those of the protected tensors whose memory these share, before it is written to."""
        for leaf in about_to_be_written:
            place = storage_of(leaf) if isinstance(leaf, torch.Tensor) else None
            if place is not None and place in self._protected and place not in self._before:
                self._before[place] = [_Kept.of(tensor) for tensor in self._protected[place]]

    @contextmanager
    def watching(self) -> Iterator[None]:
        """See what runs, and take back at the end what it has written."""
        self.sizes.otherwise = None if self._sees_all else self
        try:
            with self if self._sees_all else nullcontext(), self.sizes:
                yield
        finally:
            for kept in chain(*self._before.values()):
                kept.put_back()
