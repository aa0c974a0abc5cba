"""A run of a PyTorch model as a record of ATen calls.

In inference mode a dispatch mode sees composite operators (conv2d, linear, batch_norm) before they are taken apart,
with the real tensors. Operator names and argument names are those of ATen's native_functions.yaml.
"""

from __future__ import annotations

import gc
import weakref
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._pytree import tree_iter, tree_map

from bnfold.formats.torch.calls import COMPUTED, Call, ModuleRun, Ref
from bnfold.formats.torch.writes import WritesUndone

if TYPE_CHECKING:
    from torch._ops import OpOverload


@dataclass(eq=False)
class _Tracked:
    """A tensor that is alive, its value's id, and the storage, and its version, in which it had that value."""

    tensor: weakref.ref[torch.Tensor]
    id: str
    storage: int
    version: int


class Recorder(WritesUndone):  # type: ignore[no-untyped-call]  # as for its base class
    """Records what runs while it is active. Tensors are held weakly: activations must not pile up.

    A write advances the version of its storage: whoever reads another view of it later reads a new value, which an
    opaque call makes of the old value and of those that were seen there since.
    """

    def __init__(self, stored: Mapping[str, torch.Tensor], where: Callable[[], str] = str) -> None:
        """``stored`` are tensors of the module, by name; ``where`` tells the path of the module that is running."""
        super().__init__()
        self.calls: list[Call] = []
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.dtypes: dict[str, torch.dtype] = {}
        self.storages: dict[str, int] = {}
        """By value id, a number that values share exactly where they share memory."""
        self.strides: dict[str, tuple[int, ...]] = {}
        self.known: dict[str, torch.Tensor] = {}
        """Copies of what was computed from stored tensors alone, as far as it is one number a channel."""
        self.runs: defaultdict[str, list[ModuleRun]] = defaultdict(list)
        """The runs of the modules that the caller's hooks watch, by path."""
        self._where = where
        self._tracked: dict[int, _Tracked] = {}
        self._versions: dict[int, int] = {}
        self._values_in: defaultdict[int, list[str]] = defaultdict(list)
        """By storage, the values that were seen there since it was last written to, and the one written then."""
        self._names = 0
        self._known_storages: dict[int, StorageWeakRef] = {}
        self._is_asking = False
        """Whether it is the recorder itself that asks a tensor for its memory."""
        self._derived = set(stored)
        for name, tensor in stored.items():
            self._track(tensor, name)

    def __torch_dispatch__(
        self,
        func: OpOverload,
        types: Collection[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> object:
        kwargs = kwargs or {}
        signature = _signature(func)
        bound = {**signature.defaults, **dict(zip(signature.names, args, strict=False)), **kwargs}
        inputs: list[str] = []
        arguments = {
            name: value if type(value) in PLAIN else self._referenced(value, inputs) for name, value in bound.items()
        }
        written = [bound[name] for name in signature.written]
        if written:
            self.keep(_tensors(written))
        result = func(*args, **kwargs)
        self.sizes.note_operator(types, result)
        outputs, changed = self._outputs(written, result)
        self.calls.append(Call(signature.op, self._where(), arguments, tuple(inputs), outputs, changed, function=func))
        if inputs and self._derived.issuperset(inputs):
            self._derived.update(outputs)
            self._keep(outputs, result)
        return result

    def id_of(self, tensor: torch.Tensor) -> str:
        """The id of the value that ``tensor`` holds now."""
        tracked = self._tracked.get(id(tensor))
        is_known = tracked is not None and tracked.tensor() is tensor
        storage = self._storage(tensor)
        if tracked and is_known and (tracked.storage, tracked.version) == (storage, self._versions.get(storage, 0)):
            return tracked.id
        # Making a Parameter of a tensor and assigning to .data are no calls.
        sources = dict.fromkeys((*((tracked.id,) if tracked and is_known else ()), *self._values_in[storage]))
        fresh = self._track(tensor)
        if sources:
            op = "view of a changed tensor" if is_known else "another tensor over the same memory"
            self.calls.append(Call(op, self._where(), {}, tuple(sources), (fresh,), is_observation=True))
        else:
            self.meet(tensor)
        return fresh

    def meet(self, tensor: torch.Tensor) -> None:
        """A tensor is seen for the first time that no call of the run has made: an input, or it was there before."""

    def is_moved(self, name: str, tensor: torch.Tensor) -> bool:
        """Whether a stored tensor has got another memory since, with other values: assigning to .data does that."""
        return self._storage(tensor) != self.storages[name]

    def add_run(self, path: str, inputs: tuple[str, ...], outputs: Iterable[torch.Tensor]) -> None:
        """Note that the module at ``path`` ran, and what it was given and returned."""
        self.runs[path].append(ModuleRun(inputs, tuple(map(self.id_of, outputs))))

    def add_reader(self, what: str, tensors: Iterable[torch.Tensor]) -> None:
        """Note that something outside ATen reads ``tensors`` as they are now."""
        self.calls.append(Call(what, self._where(), {}, tuple(map(self.id_of, tensors)), (), is_observation=True))

    def note_handed_out(self, tensor: torch.Tensor) -> None:
        """Whoever has the memory of a tensor reads it, and may write to it."""
        if not self._is_asking:
            super().note_handed_out(tensor)
            self.add_reader("a reader outside of torch", [tensor])

    def alive(self, besides: Collection[str]) -> list[torch.Tensor]:
        """The tensors of the run that somebody still holds, but for those whose values are in ``besides``."""
        if not self._held(besides):
            return []
        gc.collect()  # what only a circle of references holds is not held; looking for circles takes its time
        return self._held(besides)

    def _keep(self, outputs: Collection[str], result: object) -> None:
        """Copy what has at most one axis: activations are neither few nor small, but parameters of channels are."""
        for tensor in _tensors([result]):
            value = self.id_of(tensor)
            if value in outputs and tensor.layout is torch.strided and tensor.numel() == max(tensor.shape, default=1):
                self.known[value] = tensor.detach().clone()

    def _held(self, besides: Collection[str]) -> list[torch.Tensor]:
        held = [tracked.tensor() for tracked in self._tracked.values() if tracked.id.startswith(COMPUTED)]
        return [tensor for tensor in held if tensor is not None and self.id_of(tensor) not in besides]

    def _outputs(self, written: Collection[object], result: object) -> tuple[tuple[str, ...], frozenset[str]]:
        """New ids for all that a call wrote or returned, and those of what it wrote."""
        if not written and isinstance(result, torch.Tensor):
            return (self._track(result),), frozenset()
        changed = list(_tensors(written))
        for tensor in changed:
            storage = self._storage(tensor)
            self._versions[storage] = self._versions.get(storage, 0) + 1
            self._values_in[storage].clear()
        produced = {id(tensor): tensor for tensor in (*_tensors([result]), *changed)}
        outputs = tuple(self._track(tensor) for tensor in produced.values())
        return outputs, frozenset(self._tracked[id(tensor)].id for tensor in changed)

    def _track(self, tensor: torch.Tensor, name: str = "") -> str:
        """Give ``tensor`` a new id from now on."""
        if not name:
            self._names += 1
            name = f"{COMPUTED}{self._names}"
        storage = self._storage(tensor)
        self._tracked[id(tensor)] = _Tracked(weakref.ref(tensor), name, storage, self._versions.get(storage, 0))
        self.shapes[name], self.dtypes[name], self.storages[name] = tuple(tensor.shape), tensor.dtype, storage
        self.strides[name] = tensor.stride() if tensor.layout is torch.strided else ()
        self._values_in[storage].append(name)
        return name

    def _storage(self, tensor: torch.Tensor) -> int:
        """A number that tensors share exactly where they share memory; those without memory are on their own."""
        asking, self._is_asking = self._is_asking, True
        try:
            storage = tensor.untyped_storage()
        except (NotImplementedError, RuntimeError):  # sparse and quantised tensors have no such storage
            return id(tensor)
        finally:
            self._is_asking = asking
        number = int(storage._cdata)  # noqa: SLF001 - the one identity a storage has
        if number not in self._known_storages:
            # Lets the memory go, but not the number, which no later storage can have then.
            self._known_storages[number] = StorageWeakRef(storage)  # type: ignore[no-untyped-call]  # torch has no types here
        return number

    def _referenced(self, value: object, inputs: list[str]) -> object:
        """``value`` with every tensor in it replaced by its reference: a record must keep no tensor alive.

        The ids of the tensors are added to ``inputs``.
        """
        if isinstance(value, torch.Tensor):
            inputs.append(self.id_of(value))
            return Ref(inputs[-1])
        if isinstance(value, list) and PLAIN.issuperset(map(type, value)):
            return value
        return tree_map(lambda leaf: self._referenced(leaf, inputs) if isinstance(leaf, torch.Tensor) else leaf, value)


@dataclass(frozen=True)
class _Signature:
    """What the schema of an operator says. Each look into a schema translates it anew, and takes its time."""

    op: str
    names: tuple[str, ...]
    defaults: Mapping[str, object]
    written: tuple[str, ...]
    """The arguments that are written in place."""


@cache
def _signature(func: OpOverload) -> _Signature:
    schema = func._schema  # noqa: SLF001 - where torch keeps names, defaults and what is written
    return _Signature(
        schema.name.removeprefix("aten::"),
        tuple(argument.name for argument in schema.arguments),
        {argument.name: argument.default_value for argument in schema.arguments if argument.has_default_value()},
        tuple(argument.name for argument in schema.arguments if argument.is_write),
    )


def _tensors(values: Iterable[object]) -> Iterable[torch.Tensor]:
    """Every tensor in nested containers."""
    return (
        leaf
        for value in values
        if type(value) not in PLAIN
        for leaf in ((value,) if isinstance(value, torch.Tensor) else tree_iter(value))
        if isinstance(leaf, torch.Tensor)
    )


PLAIN = frozenset({type(None), bool, int, float, str, torch.dtype, torch.device, torch.layout, torch.memory_format})
"""What most arguments are that are no tensors: looking into them for tensors takes its time."""
