"""One recorded run of a module, as a graph view, and the way back from its nodes to the modules.

The run happens on a throwaway copy that shares the parameters and has buffers of its own: the module that was given,
its mode, its buffers and the random state stay as they are.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from numpy.typing import NDArray
from torch import nn
from torch.utils._pytree import tree_leaves

from bnfold.core.graph import LAYERS, Constant, GraphView, Lock, Node, OpKind, Value
from bnfold.core.reason import Reason
from bnfold.errors import UsageError
from bnfold.formats._aten import COMPUTED, Call, Meaning, Recorder, meaning_of

Inputs = tuple[torch.Tensor, ...] | dict[str, torch.Tensor]
"""Positional or keyword inputs of a module."""

OWN_FORWARD = tuple(
    cls.forward
    for cls in (
        *(nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d, nn.Linear),
        *(nn.modules.batchnorm._BatchNorm, nn.SyncBatchNorm),  # noqa: SLF001 - the one forward of all batch norms
    )
)
"""The forward methods that are known to do one linear layer or batch norm, and nothing else."""


@dataclass(frozen=True, eq=False)
class Capture:
    """A view of a module; by node index the path of the module behind a layer or batch norm; the run's outputs."""

    view: GraphView
    owners: Mapping[int, str]
    outputs: tuple[torch.Tensor, ...]
    notes: tuple[str, ...]


def structural_copy(module: nn.Module, *, share_buffers: bool) -> nn.Module:
    """A copy of the module tree that shares its parameters, and its buffers too if asked."""
    shared = [*module.parameters(), *(module.buffers() if share_buffers else ())]
    plain = [value for part in module.modules() for value in vars(part).values() if isinstance(value, torch.Tensor)]
    return copy.deepcopy(module, {id(tensor): tensor for tensor in (*shared, *plain)})


def capture(module: nn.Module, inputs: Inputs) -> Capture:
    """Run ``module`` once on ``inputs`` and view what ran; a module in training mode runs in inference mode."""
    scratch = structural_copy(module, share_buffers=False)
    if module.training:
        scratch.eval()
    stored = _stored_tensors(scratch)
    recorder = Recorder({names[0]: tensor for names, tensor in stored})
    locks = {path: lock for path, part in scratch.named_modules() if (lock := _own_code(part))}
    with _running_paths(scratch, recorder), recorder:
        outputs = run(scratch, inputs)
    tensors = output_tensors(outputs)
    output_ids = frozenset(map(recorder.id_of, tensors))
    recorder.add_reader("a reference kept after the run", recorder.alive(besides=output_ids))
    translation = _Translation(scratch, recorder, stored, locks)
    translation.add_calls()
    values = translation.values()
    view = GraphView(tuple(translation.nodes), values.get, output_ids, lambda: recorder.shapes)
    return Capture(view, translation.owners, tuple(tensor.clone() for tensor in tensors), translation.notes())


def run(module: nn.Module, inputs: Inputs) -> object:
    """One run in inference mode; the random state is afterwards as before. UsageError where the module fails."""
    try:
        with torch.inference_mode(), torch.random.fork_rng():
            return module(**inputs) if isinstance(inputs, dict) else module(*inputs)
    except Exception as error:
        message = next(iter(str(error).splitlines()), type(error).__name__)
        raise UsageError(
            f"the model fails on the example inputs: {message}",
            remedy="give inputs that it accepts with --input (inputs=)",
        ) from error


def output_tensors(outputs: object) -> list[torch.Tensor]:
    """Every tensor in a module's outputs, also inside plain objects."""
    tensors: list[torch.Tensor] = []
    for leaf in tree_leaves(outputs):
        if isinstance(leaf, torch.Tensor):
            tensors.append(leaf)
        elif hasattr(leaf, "__dict__"):
            tensors += output_tensors(dict(vars(leaf)))
    return tensors


class _Translation:
    """The recorded calls as nodes, in order."""

    def __init__(
        self,
        scratch: nn.Module,
        recorder: Recorder,
        stored: list[tuple[list[str], torch.Tensor]],
        locks: Mapping[str, Lock],
    ) -> None:
        self.scratch = scratch
        self.recorder = recorder
        self.stored = stored
        self.locks = locks
        self.nodes: list[Node] = []
        self.owners: dict[int, str] = {}
        self.users: defaultdict[str, list[Call]] = defaultdict(list)
        for call in recorder.calls:
            for value in call.inputs:
                self.users[value].append(call)
        self.seen_batch_norms: set[str] = set()
        self.derived = {names[0] for names, _ in stored}
        """The values that are computed from stored tensors alone."""

    def add_calls(self) -> None:
        """Every call becomes a node; a batch norm that ran before, or that normalises a weight, is none of ours."""
        for call in self.recorder.calls:
            meaning = meaning_of(call, self.recorder.shapes)
            if call.inputs and self.derived.issuperset(call.inputs):
                self.derived.update(call.outputs)
                meaning = Meaning(OpKind.OPAQUE, call.inputs)
            owner = self.owner(call, meaning)
            if meaning.kind is OpKind.BATCH_NORM:
                meaning = self.once(call, meaning, owner)
            lock = self.lock(call, meaning, owner)
            label = owner or call.module or call.op
            index = len(self.nodes)
            self.owners[index] = owner
            self.nodes.append(
                Node(index, meaning.kind, call.op, label, meaning.inputs, call.outputs, meaning.traits, lock)
            )

    def owner(self, call: Call, meaning: Meaning) -> str:
        """The path of the module that holds a layer's weight or a batch norm's statistics; else where it ran."""
        if meaning.kind not in LAYERS and meaning.kind is not OpKind.BATCH_NORM:
            return ""
        held = [
            value for value in (*meaning.inputs[3:], *meaning.inputs[1:3]) if value and not value.startswith(COMPUTED)
        ]
        return held[0].rpartition(".")[0] if held else call.module

    def once(self, call: Call, meaning: Meaning, owner: str) -> Meaning:
        """The first call stands for the batch norm; a further one is only in its way."""
        if owner and owner in self.seen_batch_norms:
            return Meaning(OpKind.OPAQUE, call.inputs)
        self.seen_batch_norms.add(owner)
        return meaning

    def lock(self, call: Call, meaning: Meaning, owner: str) -> Lock | None:
        """Why a layer or a batch norm may not be touched: it serves several places, or runs the user's code."""
        if meaning.kind not in LAYERS and meaning.kind is not OpKind.BATCH_NORM:
            return None
        identity = meaning.inputs[3] if meaning.kind is OpKind.BATCH_NORM else meaning.inputs[1]
        users = self.users[identity] if identity else [call]
        if len(users) > 1 and len({user.module for user in users}) == 1:
            return Lock(Reason.RUNS_MORE_THAN_ONCE, f"{owner!r} runs {len(users)} times")
        if identity is None or identity.startswith(COMPUTED):
            return None
        return self.locks.get(owner)

    def values(self) -> dict[str, Value]:
        """The stored tensors; one with several names, or several readers, may be read but not rewritten."""
        return {names[0]: self.stored_value(names, tensor) for names, tensor in self.stored}

    def stored_value(self, names: list[str], tensor: torch.Tensor) -> Value:
        """One stored tensor."""
        name = names[0]
        if not tensor.is_floating_point() or tensor.layout is not torch.strided or tensor.is_meta:
            return Value(name)
        constant = Constant(name, str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape), partial(read, tensor))
        users = {user.module for user in self.users[name]}
        if len(names) == 1 and len(users) <= 1:
            return Value(name, constant)
        others = names[1:] or sorted(users)
        return Value(name, constant, Lock(Reason.WEIGHT_SHARED, f"also used as {', '.join(map(repr, others))}"))

    def notes(self) -> tuple[str, ...]:
        """Batch norms that the run never reached."""
        ran = set(self.owners.values())
        silent = [
            path
            for path, part in self.scratch.named_modules()
            if isinstance(part, nn.modules.batchnorm._BatchNorm) and path not in ran  # noqa: SLF001 - the common base
        ]
        if not silent:
            return ()
        return (f"never ran on the example inputs, and left alone: {', '.join(silent)}",)


def read(tensor: torch.Tensor) -> NDArray[Any]:
    """The values of a stored tensor in NumPy; bfloat16 widened to float32."""
    detached = tensor.detach().cpu()
    return (detached.float() if detached.dtype is torch.bfloat16 else detached).numpy()


def _stored_tensors(module: nn.Module) -> list[tuple[list[str], torch.Tensor]]:
    """Each parameter and buffer once, with all of its names."""
    names: dict[int, tuple[list[str], torch.Tensor]] = {}
    parameters = module.named_parameters(remove_duplicate=False)
    for name, tensor in (*parameters, *module.named_buffers(remove_duplicate=False)):
        names.setdefault(id(tensor), ([], tensor))[0].append(name)
    return list(names.values())


def _own_code(module: nn.Module) -> Lock | None:
    """Whether code that bnfold does not know runs with a module: hooks, or a forward of the user's."""
    if module._forward_hooks or module._forward_pre_hooks:  # noqa: SLF001 - torch offers no public way to ask
        return Lock(Reason.HOOKED, "it has forward hooks")
    if "forward" in vars(module) or type(module).forward not in OWN_FORWARD:
        return Lock(Reason.HOOKED, f"{type(module).__name__} has a forward method of its own")
    return None


@contextmanager
def _running_paths(scratch: nn.Module, recorder: Recorder) -> Iterator[None]:
    """Keep ``recorder.module`` at the path of the innermost running module.

    A hook of the user's on a block sees what goes in or comes out, which makes it a reader of these values. (Layers
    and batch norms with hooks are locked as a whole.)
    """
    stack = [""]

    def enter(path: str, observed: bool, _module: nn.Module, args: object) -> None:  # noqa: FBT001 - bound by partial
        stack.append(path)
        recorder.module = path
        if observed:
            recorder.add_reader("forward hook", output_tensors(args))

    def leave(observed: bool, _module: nn.Module, _args: object, outputs: object) -> None:  # noqa: FBT001 - as above
        if observed:
            recorder.add_reader("forward hook", output_tensors(outputs))
        stack.pop()
        recorder.module = stack[-1]

    for path, part in scratch.named_modules():
        is_block = type(part).forward not in OWN_FORWARD
        sees_inputs = is_block and bool(part._forward_pre_hooks)  # noqa: SLF001 - torch offers no public way to ask
        sees_outputs = is_block and bool(part._forward_hooks)  # noqa: SLF001 - as above
        part.register_forward_pre_hook(partial(enter, path, sees_inputs), prepend=True)
        part.register_forward_hook(partial(leave, sees_outputs), always_call=True)
    yield
