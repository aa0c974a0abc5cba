"""One recorded run of a module, as a graph view, and the way back from its nodes to the modules.

The run happens on a throwaway copy that shares the parameters and has buffers of its own: the module that was given,
its mode, its buffers and the random state stay as they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn

from bnfold.core.graph import GraphView, Lock
from bnfold.core.reason import Reason
from bnfold.formats._aten import Recorder
from bnfold.formats.torch_running import Inputs, output_tensors, run, structural_copy
from bnfold.formats.torch_translation import Translation

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
    translation = Translation(scratch, recorder, stored, locks, output_ids)
    translation.add_calls()
    values = translation.values()
    view = GraphView(tuple(translation.nodes), values.get, output_ids, lambda: recorder.shapes)
    operators = sum(not call.is_observation for call in recorder.calls)
    kept = tuple(tensor.clone() for tensor in tensors)
    return Capture(view, translation.owners, kept, operators, translation.notes())


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
