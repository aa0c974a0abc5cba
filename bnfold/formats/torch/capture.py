"""One recorded run of a module, as a graph view, and the way back from its nodes to the modules.

The run happens on a throwaway copy that shares the parameters and has buffers of its own: the module that was given,
its mode, its buffers and the random state stay as they are.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from bnfold.core.collecting import uncollected
from bnfold.core.graph import GraphView, Sums
from bnfold.core.verdict import Plan
from bnfold.formats.torch.aten import Recorder
from bnfold.formats.torch.classes import is_hooked
from bnfold.formats.torch.following import Running, follow
from bnfold.formats.torch.recording import Recording, StoredTensors
from bnfold.formats.torch.remains import Remains
from bnfold.formats.torch.running import Inputs, output_tensors, run
from bnfold.formats.torch.scratch import scratch_copy
from bnfold.formats.torch.translation import Translation
from bnfold.formats.torch.values import known_values


@dataclass(frozen=True, eq=False)
class Capture:
    """A view of a module, and the outputs of each run.

    By node index, ``owners`` are the paths of the modules behind layers and batch norms, and ``remains`` says what the
    latter leave behind when they fold. ``stored`` are the names of the parameters and buffers that there are.
    ``operators`` are the calls that ran; the view has more nodes, for readers outside of ATen. ``knows_sizes``: whether
    the module's code may have learnt in any run how large its tensors are.
    """

    view: GraphView
    owners: Mapping[int, str]
    remains: Mapping[int, Remains]
    stored: frozenset[str]
    outputs: tuple[tuple[torch.Tensor, ...], ...]
    operators: int
    notes: tuple[str, ...]
    knows_sizes: bool

    def removed_calls(self, plan: Plan) -> int:
        """So many of the calls no longer run once ``plan`` is applied."""
        return sum(self.remains[fold.bn.index].calls for fold in plan.folds if not fold.leaving)


def capture(module: nn.Module, inputs: Inputs, unset: Collection[str] = ()) -> Capture:
    """Run ``module`` once on ``inputs`` and view what ran; a module in training mode runs in inference mode.

    ``unset`` are names of stored tensors whose values are not those of the module that is folded: it is lazy.
    """
    scratch = scratch_copy(module)
    stored = stored_tensors(scratch)
    hooked = {path for path, part in scratch.named_modules(remove_duplicate=False) if is_hooked(part)}
    recorder = Recorder({names[0]: tensor for names, tensor in stored}, Running(scratch).path)
    follow(scratch, recorder)
    result = run(scratch, inputs, recorder)  # kept, so that what hides in it is seen to be alive
    outputs = output_tensors(result)
    ends = frozenset(map(recorder.id_of, outputs))
    recorder.add_reader("a reference kept after the run", recorder.alive(besides=ends))
    return _seen(Recording(scratch, recorder, stored, ends, hooked, unset=frozenset(unset)), outputs)


@uncollected()
def _seen(recording: Recording, outputs: Iterable[torch.Tensor]) -> Capture:
    """The view of a recorded run."""
    recorder = recording.recorder
    translation = Translation(recording)
    translation.add_calls()
    values = known_values(recording, translation.runs.values())
    return Capture(
        GraphView(
            tuple(translation.nodes),
            values.get,
            frozenset(recording.outputs),
            lambda: recorder.shapes,
            sums=Sums.DROP_BATCH_NORMS,
        ),
        owners=translation.owners,
        remains=translation.remains,
        stored=frozenset(recording.names),
        outputs=(tuple(tensor.clone() for tensor in outputs),),
        operators=sum(not call.is_observation for call in recorder.calls),
        notes=translation.notes(),
        knows_sizes=recorder.sizes.are_known,
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
