"""Where a run is: the path of the module that is running, and what the modules of interest were given."""

from __future__ import annotations

import sys
from types import FrameType

import torch
from torch import nn

from bnfold.core.collecting import uncollected
from bnfold.formats.torch.aten import Recorder
from bnfold.formats.torch.classes import (
    OWN_FORWARD,
    BatchNorm,
    forward_of,
    has_post_hooks,
    has_pre_hooks,
    is_frozen,
    is_wrapped,
)
from bnfold.formats.torch.running import output_tensors

CALLED = nn.Module._call_impl.__code__  # noqa: SLF001 - what calls forward, whoever asks for it
"""The code that runs between a module's call and its ``forward``, hooks included."""


class Running:
    """Tells from Python's stack which module of a copy runs: nothing is put into the modules for that.

    The innermost one counts that somebody called; of torch's own modules without parts also one whose ``forward``
    somebody called. What runs in TorchScript counts as its caller's.
    """

    def __init__(self, scratch: nn.Module) -> None:
        parts = [(path, part) for path, part in scratch.named_modules() if not isinstance(part, torch.jit.ScriptModule)]
        self._paths: dict[int, str] = {id(part): path for path, part in parts}
        own = {forward_of(part) for _, part in parts if _is_leaf(part)}
        codes = [CALLED, *(getattr(forward, "__code__", None) for forward in own)]
        self._codes = {id(code): code for code in codes}
        """By ``id``: what is the same code for Python has to be looked through, line by line."""

    def path(self) -> str:
        """The path of the innermost module that is running; empty where none is, or the whole."""
        frame: FrameType | None = sys._getframe(1)  # noqa: SLF001 - the way to whoever asks
        while frame is not None:
            if id(frame.f_code) in self._codes:
                path: str | None = self._paths.get(id(frame.f_locals.get("self")))
                if path is not None:
                    return path
            frame = frame.f_back
        return ""


@uncollected()
def follow(scratch: nn.Module, recorder: Recorder) -> None:
    """Let ``recorder`` know what modules of interest are given and return, and what hooks of the user's may see."""
    watched = _watched(scratch)
    for path, part in scratch.named_modules():
        if isinstance(part, torch.jit.ScriptModule):
            continue  # it takes no hooks
        if forward_of(part) not in OWN_FORWARD:
            _observe(part, recorder)
        if path in watched:
            _watch(path, part, recorder)


def _observe(part: nn.Module, recorder: Recorder) -> None:
    """A hook of the user's on a block reads what goes in and, behind it, what comes out.

    (Layers and batch norms with hooks are locked as a whole.)
    """

    def note(_module: nn.Module, *seen: object) -> None:
        recorder.add_reader("hook", output_tensors(seen))

    if has_pre_hooks(part):
        part.register_forward_pre_hook(note, prepend=True, with_kwargs=True)
    if has_post_hooks(part):
        part.register_forward_hook(note, with_kwargs=True, always_call=True)


def _watch(path: str, part: nn.Module, recorder: Recorder) -> None:
    """Note the runs of a module, and what went in and came out."""
    given: list[tuple[str, ...]] = []

    def enter(_module: nn.Module, *seen: object) -> None:
        given.append(tuple(map(recorder.id_of, output_tensors(seen))))

    def leave(_module: nn.Module, *seen: object) -> None:
        recorder.add_run(path, given.pop(), output_tensors(seen[-1]))

    part.register_forward_pre_hook(enter, prepend=True, with_kwargs=True)
    part.register_forward_hook(leave, with_kwargs=True, always_call=True)


def _is_leaf(part: nn.Module) -> bool:
    """Whether a module is one of torch's own, without parts, and nobody has changed it."""
    own = type(part).__module__.startswith(nn.modules.__name__)
    return own and not (part._modules or is_wrapped(part))  # noqa: SLF001 - quicker than children()


def _watched(scratch: nn.Module) -> set[str]:
    """The paths of modules that are batch norms of their own kind, and of what they may run behind the norm."""
    kinds = [(path, part) for path, part in scratch.named_modules() if forward_of(part) not in OWN_FORWARD]
    norms = [(path, part) for path, part in kinds if isinstance(part, BatchNorm) or is_frozen(part)]
    children = {f"{path}.{name}".removeprefix(".") for path, part in norms for name, _ in part.named_children()}
    return {path for path, _ in norms} | children
