"""Where a run is: the path of the module that is running, and what the modules of interest were given."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial, wraps
from types import MethodType
from typing import Any

import torch
from torch import nn

from bnfold.formats.torch.aten import Recorder
from bnfold.formats.torch.classes import (
    OWN_FORWARD,
    BatchNorm,
    forward_of,
    has_post_hooks,
    has_pre_hooks,
    is_frozen,
    is_hooked,
    is_wrapped,
)
from bnfold.formats.torch.running import output_tensors


@contextmanager
def followed(scratch: nn.Module, recorder: Recorder) -> Iterator[None]:
    """Keep ``recorder.module`` at the path of the innermost running module.

    A hook of the user's on a block may see what goes in and what comes out, which makes it a reader of these values.
    (Layers and batch norms with hooks are locked as a whole.) Torch's own modules without parts, most of all, get
    another ``forward`` meanwhile: hooks would take four times as long.
    """
    stack: list[tuple[str, tuple[str, ...]]] = [("", ())]
    """The path of each running module, and what it was given, as far as that is wanted."""
    watched = _watched(scratch)

    def enter(path: str, observed: bool, _module: nn.Module, *given: object) -> None:  # noqa: FBT001 - bound by partial
        recorder.module = path
        if observed:
            recorder.add_reader("hook", output_tensors(given))
        stack.append((path, tuple(map(recorder.id_of, output_tensors(given))) if path in watched else ()))

    def leave(observed: bool, _module: nn.Module, *seen: object) -> None:  # noqa: FBT001 - as above
        if observed:
            recorder.add_reader("hook", output_tensors(seen))
        path, given = stack.pop()
        if path in watched:
            recorder.add_run(path, given, output_tensors(seen[-1]))
        recorder.module = stack[-1][0]

    parts = dict(scratch.named_modules())
    leaves = {path: part for path, part in parts.items() if path not in watched and _is_leaf(part)}
    for path, part in parts.items():
        if path in leaves or isinstance(part, torch.jit.ScriptModule):
            continue  # the latter takes no hooks; what runs in it counts as its caller's
        is_block = forward_of(part) not in OWN_FORWARD
        observes_inputs, observes_all = is_block and has_pre_hooks(part), is_block and has_post_hooks(part)
        part.register_forward_pre_hook(partial(enter, path, observes_inputs), prepend=True, with_kwargs=True)
        part.register_forward_hook(partial(leave, observes_all), with_kwargs=True, always_call=True)
    with _announced(leaves, recorder):
        yield


def _is_leaf(part: nn.Module) -> bool:
    """Whether a module is one of torch's own, without parts, that nobody looks at and nobody has changed."""
    own = type(part).__module__.startswith(nn.modules.__name__)
    return own and not (part._modules or is_wrapped(part) or is_hooked(part))  # noqa: SLF001 - quicker than children()


LENT = ("forward", "__getstate__")
"""The attributes that a module without parts has while it is followed."""


@contextmanager
def _announced(leaves: Mapping[str, nn.Module], recorder: Recorder) -> Iterator[None]:
    """Let modules, by path, tell the recorder where they run; copies that are made of them run by themselves."""
    for path, part in leaves.items():
        vars(part)["forward"] = MethodType(_announcing(path, type(part).forward, recorder), part)
        vars(part)["__getstate__"] = MethodType(_own_state, part)
    try:
        yield
    finally:
        for part in leaves.values():
            for name in LENT:
                vars(part).pop(name, None)  # its own code may have taken it away


def _announcing(path: str, forward: Callable[..., Any], recorder: Recorder) -> Callable[..., Any]:
    """``forward``, which tells the recorder where it runs, and looks the same to whoever asks what it takes."""

    @wraps(forward)
    def announced(part: nn.Module, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - as the module takes them
        outside, recorder.module = recorder.module, path
        try:
            return forward(part, *args, **kwargs)
        finally:
            recorder.module = outside

    return announced


def _own_state(part: nn.Module) -> dict[str, object]:
    """What a copy takes over, however it is made."""
    state = type(part).__getstate__(part)  # type: ignore[no-untyped-call]  # torch has no types here
    return {name: value for name, value in state.items() if name not in LENT}


def _watched(scratch: nn.Module) -> set[str]:
    """The paths of modules that are batch norms of their own kind, and of what they may run behind the norm."""
    kinds = [(path, part) for path, part in scratch.named_modules() if forward_of(part) not in OWN_FORWARD]
    norms = [(path, part) for path, part in kinds if isinstance(part, BatchNorm) or is_frozen(part)]
    children = {f"{path}.{name}".removeprefix(".") for path, part in norms for name, _ in part.named_children()}
    return {path for path, _ in norms} | children
