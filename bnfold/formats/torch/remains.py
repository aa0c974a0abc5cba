"""What a batch norm leaves behind when it folds: nothing, its activation, or itself with values that change nothing."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import nn

from bnfold.core.graph import Lock
from bnfold.core.reason import Reason
from bnfold.core.traits import BatchNormTraits
from bnfold.formats.torch.arithmetic import NEUTRAL, ArithmeticRun
from bnfold.formats.torch.calls import Call, is_stored
from bnfold.formats.torch.classes import BatchNorm, is_frozen, is_known, is_wrapped
from bnfold.formats.torch.neutral import neutral_batch_norm, neutral_tensors
from bnfold.formats.torch.operators import Meaning
from bnfold.formats.torch.recording import Recording, place

PARAMETERS = ("scale", "shift", "mean", "variance")
"""What the inputs of a batch norm are, from the second on."""


ENTANGLED = "its input or output is written in place while the other is still needed"
"""Why a batch norm that would become an Identity stays, or is kept."""


@dataclass(frozen=True, eq=False)
class Remains:
    """The module at ``module`` becomes an Identity, or what it runs behind the batch norm; ``calls`` no longer run.

    Where ``why`` says that it cannot, the stored tensors in ``neutral``, by name, take values that change nothing.
    """

    module: str = ""
    calls: int = 0
    neutral: Mapping[str, torch.Tensor] = field(default_factory=dict)
    why: str = ""


def of_operator(
    recording: Recording, call: Call, meaning: Meaning, owner: str, *, is_entangled: bool
) -> Remains | Lock:
    """What remains of a call of batch_norm, or why it may not fold.

    ``is_entangled``: it has to stay, since its input and output may not be one memory (``SharedMemory``).
    """
    part, is_own = recording.parts[owner], call.module == owner
    if isinstance(part, torch.jit.ScriptModule):
        return Lock(Reason.HOOKED, f"{owner or 'the model'!r} runs in TorchScript")
    if is_own and owner in recording.hooked:
        return Lock(Reason.HOOKED, "it has hooks")
    if is_own and _goes(recording, owner, str(meaning.inputs[0]), call.outputs[0], [call]):
        used = _used_elsewhere(recording, filter(is_stored, meaning.inputs[1:]))
        stays = is_entangled or _is_laid_out_for_views(recording, str(meaning.inputs[0]), call.outputs[0])
        if used or not stays:
            return Lock(Reason.HOOKED, used) if used else Remains(owner, calls=1)
    if None in meaning.inputs[3:]:
        return Remains()  # it has no statistics, and does not fold
    if why_not := _not_writable(recording, call, meaning):
        return Lock(Reason.HOOKED, why_not)
    return _neutral_operator(recording, call, meaning, ENTANGLED if is_entangled else _why(part, owner, call))


def _not_writable(recording: Recording, call: Call, meaning: Meaning) -> str:
    """Why the parameters of a batch norm cannot take other values; empty where they can."""
    for word, value in zip(PARAMETERS, meaning.inputs[1:], strict=True):
        if value is None:
            continue
        used = recording.further_uses(value, [call]) if is_stored(value) else _origin(recording, value)
        if used:
            return f"its {word} {used}"
    return ""


def _origin(recording: Recording, value: str) -> str:
    """Where a parameter of a batch norm comes from that the module does not hold."""
    is_made = any(value in call.outputs for call in recording.recorder.calls if not call.is_observation)
    return "is computed by code of the model" if is_made else "is no parameter or buffer of the module"


def of_run(recording: Recording, run: ArithmeticRun, *, is_entangled: bool) -> Remains | Lock:
    """What remains of a batch norm that is written out as arithmetic, or why it may not fold.

    ``is_entangled`` as for ``of_operator``; its module has no values with which it stays and changes nothing.
    """
    calls = [step.call for step in run.steps]
    path = calls[0].module
    if len(recording.recorder.runs[path]) > 1:
        return Lock(Reason.RUNS_MORE_THAN_ONCE, f"{path!r} runs {len(recording.recorder.runs[path])} times")
    if {call.module for call in calls} == {path} and _goes(recording, path, run.data, run.output, calls):
        if path in recording.hooked:
            return Lock(Reason.HOOKED, "it has hooks")
        goes = Remains(path, calls=len(recording.calls_in[path]))
        return Lock(Reason.FAN_OUT, ENTANGLED) if is_entangled else goes
    leaves = sorted(recording.lineage.leaves(run.computed))
    chain = recording.lineage.chain(run.computed)
    for leaf in leaves:
        if used := recording.further_uses(leaf, [*chain, *calls]):
            return Lock(Reason.HOOKED, f"its {leaf.rpartition('.')[2]} {used}")
    tensors = {leaf: recording.tensors[leaf] for leaf in leaves}
    values = neutral_tensors(tensors, chain, partial(_changes_nothing, run))
    if values is None:
        return Lock(Reason.HOOKED, f"no values of {', '.join(leaves)} are known with which it changes nothing")
    return Remains(neutral=values, why=f"the code of {place(calls[0])} writes it out")


def _neutral_operator(recording: Recording, call: Call, meaning: Meaning, why: str) -> Remains | Lock:
    """A batch norm that stays, with values of its own tensors that change nothing."""
    if not isinstance(meaning.traits, BatchNormTraits):
        raise TypeError(f"{call.op} is no batch norm")
    names = meaning.inputs[1:]
    known, data = recording.recorder, str(meaning.inputs[0])
    parameters = [None if name is None else recording.tensors[name] for name in names]
    values = neutral_batch_norm(
        parameters, meaning.traits.epsilon, rank=len(known.shapes[data]), dtype=known.dtypes[data]
    )
    stored = [name for name in names if name is not None]
    if values is None or len(set(stored)) < len(stored):
        return Lock(Reason.HOOKED, f"{why}, and no values of its tensors make it change nothing")
    return Remains(neutral=dict(zip(stored, values, strict=True)), why=why)


def _changes_nothing(run: ArithmeticRun, values: Mapping[str, torch.Tensor]) -> bool:
    """Whether every step of a run adds 0 or multiplies by 1, given the values of its constants."""
    for step in run.steps:
        neutral = NEUTRAL.get(step.step.arithmetic)
        tensor = values.get(step.constant)
        if neutral is None or not (step.number == neutral if tensor is None else bool((tensor == neutral).all())):
            return False
    return True


def _why(part: nn.Module, owner: str, call: Call) -> str:
    """Why a batch norm cannot be taken out."""
    if call.module == owner and isinstance(part, BatchNorm):
        if _goes_alone(part):
            return "it lays its output out in memory as the view behind it needs"
        return f"{type(part).__name__} {'holds other modules' if is_known(part) else 'runs code of its own'}"
    return f"the code of {place(call)} calls it"


def _goes(recording: Recording, path: str, data: str, output: str, calls: Sequence[Call]) -> bool:
    """Whether a module is a batch norm and nothing else, but for the modules that it runs behind it.

    It is one of torch's own; or, as the run shows, it takes one value, normalises it, gives it to its children one
    after the other and returns what comes out; and it is a subclass of a batch norm with such children (as timm's), or
    has nothing but buffers, running statistics among them (as the frozen batch norms of torchvision and detectron).
    """
    part = recording.parts[path]
    if _goes_alone(part):
        return True
    if is_wrapped(part) or isinstance(part, torch.jit.ScriptModule):
        return False
    children = [name for name, _ in part.named_children()]
    is_subclass = isinstance(part, BatchNorm) and bool(children)
    is_each_once = len(children) == len(part._modules)  # noqa: SLF001 - the public ways skip what is there twice, and None
    if not ((is_subclass or is_frozen(part)) and is_each_once):
        return False
    derived = recording.lineage.derived
    own = [call for call in recording.calls_in[path] if not call.inputs or not derived.issuperset(call.inputs)]
    if list(map(id, own)) != list(map(id, calls)):
        return False
    return _chained(recording, path, data, output, [f"{path}.{name}".removeprefix(".") for name in children])


def _goes_alone(part: nn.Module) -> bool:
    """Whether a module is a batch norm of torch's own, which holds no others."""
    return isinstance(part, BatchNorm) and is_known(part) and not part._modules  # noqa: SLF001 - even where one is None


def _is_laid_out_for_views(recording: Recording, data: str, output: str) -> bool:
    """Whether a batch norm's output lies in memory otherwise than its input, and a view needs that.

    What is computed from it element by element lies there like it.
    """
    known = recording.recorder
    pairs = zip(known.shapes[output], known.strides[data], known.strides[output], strict=True)
    if all(before == after for size, before, after in pairs if size > 1):
        return False
    places = {known.storages[output]}
    for call in known.calls:
        if places.isdisjoint(known.storages[value] for value in call.inputs):
            continue
        if call.op in VIEWS:
            return True
        if call.function is not None and torch.Tag.pointwise in call.function.tags:
            places.update(known.storages[value] for value in call.outputs)
    return False


VIEWS = frozenset({"view", "view_as", "_unsafe_view", "as_strided"})
"""What works on memory as it lies there, or fails."""


def _chained(recording: Recording, path: str, data: str, output: str, children: Collection[str]) -> bool:
    """Whether the run went from ``data`` to the batch norm's ``output`` and through the children, once each."""
    runs = recording.recorder.runs
    if len(runs[path]) != 1 or runs[path][0].inputs != (data,):
        return False
    value = output
    for child in children:
        if len(runs[child]) != 1 or runs[child][0].inputs != (value,) or len(runs[child][0].outputs) != 1:
            return False
        value = runs[child][0].outputs[0]
    return runs[path][0].outputs == (value,)


def _used_elsewhere(recording: Recording, stored: Iterable[str | None]) -> str:
    """What reads the tensors of a module that would be gone, without holding them itself; empty where nothing does."""
    for name in filter(None, stored):
        word = name.rpartition(".")[2]
        if name in recording.outputs:
            return f"its {word} is an output of the model"
        for call in recording.users[name]:
            if call.module not in recording.owners(name):
                return f"{call.op} in {place(call)} reads its {word}"
    return ""
