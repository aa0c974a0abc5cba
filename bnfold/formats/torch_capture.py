"""One recorded run of a module, as a graph view, and the way back from its nodes to the modules.

The run happens on a throwaway copy that shares the parameters and has buffers of its own: the module that was given,
its mode, its buffers and the random state stay as they are.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from numpy.typing import NDArray
from torch import nn

from bnfold.core.graph import LAYERS, Constant, GraphView, Lock, Node, OpKind, Value
from bnfold.core.reason import Reason
from bnfold.formats import torch_movers, torch_operators
from bnfold.formats._aten import COMPUTED, Call, Recorder
from bnfold.formats.torch_operators import Meaning, Shapes, opaque
from bnfold.formats.torch_running import Inputs, output_tensors, run, structural_copy

OWN_FORWARD = tuple(
    cls.forward
    for cls in (
        *(nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d, nn.Linear),
        *(nn.modules.batchnorm._BatchNorm, nn.SyncBatchNorm),  # noqa: SLF001 - the one forward of all batch norms
    )
)
"""The forward methods that are known to do one linear layer or batch norm, and nothing else."""


DECIDING = ("item", "is_nonzero", "equal", "allclose")
"""The calls by which Python code reads values, to branch on them or to compute with them."""


@dataclass(frozen=True, eq=False)
class Capture:
    """A view of a module; by node index the path of the module behind a layer or batch norm; the run's outputs.

    ``operators`` are the calls that ran; the view has more nodes, for readers outside of ATen.
    """

    view: GraphView
    owners: Mapping[int, str]
    outputs: tuple[torch.Tensor, ...]
    operators: int
    notes: tuple[str, ...]


def capture(module: nn.Module, inputs: Inputs) -> Capture:
    """Run ``module`` once on ``inputs`` and view what ran; a module in training mode runs in inference mode."""
    scratch = structural_copy(module, share_buffers=False)
    if module.training:
        scratch.eval()
    stored = _stored_tensors(scratch)
    recorder = Recorder({names[0]: tensor for names, tensor in stored})
    locks = {path: lock for path, part in scratch.named_modules() if (lock := _own_code(part))}
    with _running_paths(scratch, recorder):
        outputs = run(scratch, inputs, recorder)
    tensors = output_tensors(outputs)
    output_ids = frozenset(map(recorder.id_of, tensors))
    recorder.add_reader("a reference kept after the run", recorder.alive(besides=output_ids))
    translation = _Translation(scratch, recorder, stored, locks, output_ids)
    translation.add_calls()
    values = translation.values()
    view = GraphView(tuple(translation.nodes), values.get, output_ids, lambda: recorder.shapes)
    operators = sum(not call.is_observation for call in recorder.calls)
    kept = tuple(tensor.clone() for tensor in tensors)
    return Capture(view, translation.owners, kept, operators, translation.notes())


class _Translation:
    """The recorded calls as nodes, in order."""

    def __init__(
        self,
        scratch: nn.Module,
        recorder: Recorder,
        stored: list[tuple[list[str], torch.Tensor]],
        locks: Mapping[str, Lock],
        outputs: Collection[str],
    ) -> None:
        self.scratch = scratch
        self.recorder = recorder
        self.stored = stored
        self.locks = locks
        self.nodes: list[Node] = []
        self.owners: dict[int, str] = {}
        self.names = {names[0]: names for names, _ in stored}
        self.parts = dict(scratch.named_modules(remove_duplicate=False))
        self.outputs = outputs
        self.users: defaultdict[str, list[Call]] = defaultdict(list)
        for call in recorder.calls:
            for value in set(call.inputs):
                self.users[value].append(call)
        self.seen_batch_norms: set[str] = set()
        made = {value for call in recorder.calls for value in call.outputs}
        self.lasting = {
            recorder.storages[value] for value in recorder.storages if value in outputs or value not in made
        }
        """The memory of what is there after the run, or was before it."""
        self.derived = {names[0] for names, _ in stored}
        """The values that are computed from stored tensors alone."""

    def add_calls(self) -> None:
        """Every call becomes a node; a batch norm that ran before, or that normalises a weight, is none of ours."""
        for position, call in enumerate(self.recorder.calls):
            meaning = _meaning_of(call, self.recorder.shapes)
            if call.inputs and self.derived.issuperset(call.inputs):
                self.derived.update(call.outputs)
                meaning = Meaning(OpKind.OPAQUE, call.inputs)
            owner = self.owner(call, meaning)
            if meaning.kind is OpKind.BATCH_NORM:
                meaning = self.once(call, meaning, owner)
            lock = self.lock(call, meaning, owner)
            if meaning.kind is OpKind.BATCH_NORM and lock is None and self.is_entangled(position):
                lock = Lock(Reason.FAN_OUT, "its input or output is written in place while the other is still needed")
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
        owners = [name.rpartition(".")[0] for name in self.names.get(held[0], ())] if held else []
        return owners[0] if owners and call.module not in owners else call.module

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
        if identity is None or identity.startswith(COMPUTED):
            return None
        users = self.users[identity]
        if len(users) > 1 and len({user.module for user in users}) == 1:
            return Lock(Reason.RUNS_MORE_THAN_ONCE, f"{owner!r} runs {len(users)} times")
        if call.module != owner:
            return Lock(Reason.HOOKED, f"code outside of its own forward method uses the tensors of {owner!r}")
        if meaning.kind is OpKind.BATCH_NORM and (use := self.foreign_use(meaning)):
            return Lock(Reason.HOOKED, use)
        return self.locks.get(owner)

    def is_entangled(self, position: int) -> bool:
        """Whether a write would show where it must not, if a batch norm's output were the memory of its input.

        As it is where the batch norm becomes an Identity.
        """
        memory, call = self.recorder.storages, self.recorder.calls[position]
        before, after = memory[call.value("input") or ""], memory[call.outputs[0]]
        written: set[int] = set()
        for later in self.recorder.calls[position + 1 :]:
            read = {memory[value] for value in later.inputs}
            if (before in written and after in read) or (after in written and before in read):
                return True
            written.update(memory[value] for value in later.written)
        return (before in written and after in self.lasting) or (after in written and before in self.lasting)

    def foreign_use(self, meaning: Meaning) -> str:
        """What besides batch norms reads the tensors of a batch norm, which would be gone; empty where nothing does."""
        for name in filter(None, meaning.inputs[1:]):
            if name in self.outputs:
                return f"its {name.rpartition('.')[2]} is an output of the model"
            for call in self.users[name]:
                if _meaning_of(call, self.recorder.shapes).kind is not OpKind.BATCH_NORM:
                    return f"{call.op} in {call.module or 'the model itself'} reads its {name.rpartition('.')[2]}"
        return ""

    def values(self) -> dict[str, Value]:
        """The stored tensors; one that serves more than one purpose may be read but not rewritten."""
        return {names[0]: self.stored_value(names, tensor) for names, tensor in self.stored}

    def stored_value(self, names: list[str], tensor: torch.Tensor) -> Value:
        """One stored tensor."""
        name = names[0]
        if not _is_plain(tensor):
            return Value(name)
        constant = Constant(name, str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape), partial(read, tensor))
        uses = self.further_uses(names)
        return Value(name, constant, Lock(Reason.WEIGHT_SHARED, f"it is also {uses}") if uses else None)

    def further_uses(self, names: list[str]) -> str:
        """What would change, besides its layer, if a stored tensor did; empty where nothing would."""
        name = names[0]
        if name in self.outputs:
            return "an output of the model"
        places = {(id(self.parts[path]), last) for path, _, last in (n.rpartition(".") for n in names)}
        if len(places) > 1:
            return f"named {', '.join(map(repr, names[1:]))}"
        if len(self.users[name]) > 1:
            readers = [f"{call.op} in {call.module or 'the model itself'}" for call in self.users[name]]
            return f"read elsewhere: {', '.join(readers)}"
        return ""

    def notes(self) -> tuple[str, ...]:
        """Batch norms that the run never reached, and whether another run might take another path."""
        ran = {*self.owners.values(), *(call.module for call in self.recorder.calls)}
        silent = [
            path
            for path, part in self.scratch.named_modules()
            if isinstance(part, nn.modules.batchnorm._BatchNorm) and path not in ran  # noqa: SLF001 - the common base
        ]
        notes: tuple[str, ...] = (
            (f"never ran on the example inputs, and left alone: {', '.join(silent)}",) if silent else ()
        )
        asking = [
            call for call in self.recorder.calls if call.op in DECIDING and not self.derived.issuperset(call.inputs)
        ]
        if asking:
            places = ", ".join(dict.fromkeys(call.module or "the model itself" for call in asking))
            notes += (f"the path may depend on the data ({places}); judged on the path that the example inputs took",)
        return notes


def read(tensor: torch.Tensor) -> NDArray[Any]:
    """The values of a stored tensor in NumPy; bfloat16 widened to float32."""
    detached = tensor.detach().cpu()
    return (detached.float() if detached.dtype is torch.bfloat16 else detached).numpy()


def _is_plain(tensor: torch.Tensor) -> bool:
    """Whether a tensor is an ordinary array of real floats, not a sparse, quantised or wrapped one."""
    is_wrapped = type(tensor).__torch_dispatch__ is not torch.Tensor.__torch_dispatch__
    return tensor.is_floating_point() and tensor.layout is torch.strided and not (tensor.is_meta or is_wrapped)


def _stored_tensors(module: nn.Module) -> list[tuple[list[str], torch.Tensor]]:
    """Each parameter and buffer once, with all of its names."""
    names: dict[int, tuple[list[str], torch.Tensor]] = {}
    parameters = module.named_parameters(remove_duplicate=False)
    for name, tensor in (*parameters, *module.named_buffers(remove_duplicate=False)):
        names.setdefault(id(tensor), ([], tensor))[0].append(name)
    return list(names.values())


def _own_code(module: nn.Module) -> Lock | None:
    """Whether code that bnfold does not know runs with a module: hooks, or a forward of the user's."""
    if _pre_hooks(module) or _post_hooks(module):
        return Lock(Reason.HOOKED, "it has forward hooks")
    own_call = type(module).__call__ is not nn.Module.__call__
    if own_call or "forward" in vars(module) or _forward_of(module) not in OWN_FORWARD:
        return Lock(Reason.HOOKED, f"{type(module).__name__} has a forward method of its own")
    return None


def _forward_of(module: nn.Module) -> object:
    """The forward method of a module's class; None where it has none that can be told, as in TorchScript."""
    return getattr(type(module), "forward", None)


def _pre_hooks(module: nn.Module) -> bool:
    """Whether hooks of the user's see what goes into ``module``."""
    # Here and below: torch offers no public way to ask.
    return bool(module._forward_pre_hooks or nn.modules.module._global_forward_pre_hooks)  # noqa: SLF001 - as said


def _post_hooks(module: nn.Module) -> bool:
    """Whether hooks of the user's see what goes into ``module`` and what comes out of it."""
    return bool(module._forward_hooks or nn.modules.module._global_forward_hooks)  # noqa: SLF001 - as said


@contextmanager
def _running_paths(scratch: nn.Module, recorder: Recorder) -> Iterator[None]:
    """Keep ``recorder.module`` at the path of the innermost running module.

    A hook of the user's on a block may see what goes in and what comes out, which makes it a reader of these values.
    (Layers and batch norms with hooks are locked as a whole.)
    """
    stack = [""]

    def enter(path: str, observed: bool, _module: nn.Module, *given: object) -> None:  # noqa: FBT001 - bound by partial
        stack.append(path)
        recorder.module = path
        if observed:
            recorder.add_reader("forward hook", output_tensors(given))

    def leave(observed: bool, _module: nn.Module, *seen: object) -> None:  # noqa: FBT001 - as above
        if observed:
            recorder.add_reader("forward hook", output_tensors(seen))
        stack.pop()
        recorder.module = stack[-1]

    for path, part in scratch.named_modules():
        if isinstance(part, torch.jit.ScriptModule):
            continue  # takes no hooks; what runs in it counts as its caller's
        is_block = _forward_of(part) not in OWN_FORWARD
        observes_inputs, observes_all = is_block and _pre_hooks(part), is_block and _post_hooks(part)
        part.register_forward_pre_hook(partial(enter, path, observes_inputs), prepend=True, with_kwargs=True)
        part.register_forward_hook(partial(leave, observes_all), with_kwargs=True, always_call=True)
    yield


def _meaning_of(call: Call, shapes: Shapes) -> Meaning:
    """A call in the words of the graph view; what the tables do not know is opaque."""
    row = ROWS.get(call.op.partition(".")[0])
    return row(call, shapes) if row else opaque(call)


ROWS = torch_operators.ROWS | torch_movers.ROWS
