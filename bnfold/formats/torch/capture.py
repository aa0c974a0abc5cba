"""One recorded run of a module, as a graph view, and the way back from its nodes to the modules.

The run happens on a throwaway copy that shares the parameters and has buffers of its own: the module that was given,
its mode, its buffers and the random state stay as they are.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from bnfold.core.graph import GraphView, Sums
from bnfold.formats.torch.aten import Recorder
from bnfold.formats.torch.classes import (
    OWN_FORWARD,
    BatchNorm,
    forward_of,
    has_post_hooks,
    has_pre_hooks,
    is_frozen,
    is_hooked,
)
from bnfold.formats.torch.recording import Recording, StoredTensors
from bnfold.formats.torch.remains import Remains
from bnfold.formats.torch.running import Inputs, output_tensors, run
from bnfold.formats.torch.scratch import scratch_copy
from bnfold.formats.torch.translation import Translation


@dataclass(frozen=True, eq=False)
class Capture:
    """A view of a module, and the outputs of each run.

    By node index, ``owners`` are the paths of the modules behind layers and batch norms, and ``remains`` says what the
    latter leave behind when they fold. ``stored`` are the names of the parameters and buffers that there are.
    ``operators`` are the calls that ran; the view has more nodes, for readers outside of ATen. ``recorder`` has seen
    the first run, whose outputs are the values ``output_ids``.
    """

    view: GraphView
    owners: Mapping[int, str]
    remains: Mapping[int, Remains]
    stored: frozenset[str]
    outputs: tuple[tuple[torch.Tensor, ...], ...]
    operators: int
    notes: tuple[str, ...]
    recorder: Recorder
    output_ids: tuple[str, ...]


def capture(module: nn.Module, inputs: Inputs, unset: Collection[str] = ()) -> Capture:
    """Run ``module`` once on ``inputs`` and view what ran; a module in training mode runs in inference mode.

    ``unset`` are names of stored tensors whose values are not those of the module that is folded: it is lazy.
    """
    scratch = scratch_copy(module)
    stored = stored_tensors(scratch)
    hooked = {path for path, part in scratch.named_modules(remove_duplicate=False) if is_hooked(part)}
    recorder = Recorder({names[0]: tensor for names, tensor in stored})
    with _running_paths(scratch, recorder):
        outputs = run(scratch, inputs, recorder)
    tensors = output_tensors(outputs)
    output_ids = tuple(map(recorder.id_of, tensors))
    ends = frozenset(output_ids)
    recorder.add_reader("a reference kept after the run", recorder.alive(besides=ends))
    translation = Translation(Recording(scratch, recorder, stored, ends, hooked, unset=frozenset(unset)))
    translation.add_calls()
    values = translation.values()
    view = GraphView(tuple(translation.nodes), values.get, ends, lambda: recorder.shapes, sums=Sums.DROP_BATCH_NORMS)
    operators = sum(not call.is_observation for call in recorder.calls)
    kept = tuple(tensor.clone() for tensor in tensors)
    names = frozenset(names[0] for names, _ in stored)
    return Capture(
        view,
        translation.owners,
        translation.remains,
        names,
        (kept,),
        operators,
        translation.notes(),
        recorder,
        output_ids,
    )


def stored_tensors(module: nn.Module) -> StoredTensors:
    """Each parameter and buffer once, with all of its names."""
    names: dict[int, tuple[list[str], torch.Tensor]] = {}
    parameters = module.named_parameters(remove_duplicate=False)
    for name, tensor in (*parameters, *module.named_buffers(remove_duplicate=False)):
        if is_lazy(tensor):
            continue  # also after a run that did not reach it
        names.setdefault(id(tensor), ([], tensor))[0].append(name)
    return list(names.values())


@contextmanager
def _running_paths(scratch: nn.Module, recorder: Recorder) -> Iterator[None]:
    """Keep ``recorder.module`` at the path of the innermost running module.

    A hook of the user's on a block may see what goes in and what comes out, which makes it a reader of these values.
    (Layers and batch norms with hooks are locked as a whole.)
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

    for path, part in scratch.named_modules():
        if isinstance(part, torch.jit.ScriptModule):
            continue  # takes no hooks; what runs in it counts as its caller's
        is_block = forward_of(part) not in OWN_FORWARD
        observes_inputs, observes_all = is_block and has_pre_hooks(part), is_block and has_post_hooks(part)
        part.register_forward_pre_hook(partial(enter, path, observes_inputs), prepend=True, with_kwargs=True)
        part.register_forward_hook(partial(leave, observes_all), with_kwargs=True, always_call=True)
    yield


def _watched(scratch: nn.Module) -> set[str]:
    """The paths of modules that are batch norms of their own kind, and of what they may run behind the norm."""
    kinds = [(path, part) for path, part in scratch.named_modules() if forward_of(part) not in OWN_FORWARD]
    norms = [(path, part) for path, part in kinds if isinstance(part, BatchNorm) or is_frozen(part)]
    children = {f"{path}.{name}".removeprefix(".") for path, part in norms for name, _ in part.named_children()}
    return {path for path, _ in norms} | children
