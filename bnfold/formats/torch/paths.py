"""Whether a module and its folded copy take the recorded path on other inputs: what they call, without the work.

Both are run, but their layers, where nearly all of the time goes, give zeros of the right shape. Every call is compared
with the recorded one. Where both take that path, on which each batch norm that folded stands right behind or before its
layer, they compute the same: nothing in such a fold depends on sizes.

Zeros stand for any values only as long as nobody looks at them. Where a call or the code may do so, and where a fold
rests on anything else between a batch norm and its layer, this says nothing, and both must be run in earnest.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import nn

from bnfold.core.graph import LAYERS
from bnfold.core.verdict import Change, Fold, Plan
from bnfold.formats.torch.aten import Recorder
from bnfold.formats.torch.calls import Call, Ref, is_stored
from bnfold.formats.torch.capture import Capture
from bnfold.formats.torch.light import Sizes, Unread, light_run
from bnfold.formats.torch.operators import BATCH_NORMS
from bnfold.formats.torch.running import Inputs
from bnfold.formats.torch.structure import Structure
from bnfold.formats.torch.translation import ROWS


@dataclass(frozen=True, eq=False)
class Path:
    """The calls of a run and what they work on."""

    calls: tuple[Call, ...]
    outputs: tuple[str, ...]
    shapes: Mapping[str, Sizes]

    @classmethod
    def of(cls, recorder: Recorder, outputs: Iterable[str]) -> Path:
        """The path that ``recorder`` has seen, without those who only looked at what was there."""
        calls = tuple(call for call in recorder.calls if call.outputs or not call.is_observation)
        return cls(calls, tuple(outputs), recorder.shapes)


@dataclass(frozen=True, eq=False)
class FoldedPath:
    """The recorded path of a module, and what its folded copy must do in its place.

    The calls whose outputs are ``gone`` no longer run; ``biases`` are the names of those that layers gained.
    """

    recorded: Path
    gone: frozenset[str]
    biases: frozenset[str]

    @classmethod
    def of(cls, captured: Capture, plan: Plan, structure: Structure) -> FoldedPath | None:
        """None where the path alone does not tell that the folded module is right."""
        recorded = Path.of(captured.recorder, captured.output_ids)
        if not (all(map(_is_direct, plan.changes)) and all(map(_needs_no_values, recorded.calls))):
            return None
        gone = [fold.bn for fold in plan.folds if captured.remains[fold.bn.index].calls]
        biases = frozenset(f"{path}.bias".removeprefix(".") for path in structure.biases)
        return cls(recorded, frozenset(value for bn in gone for value in bn.outputs), biases)

    def is_taken(self, original: nn.Module, folded: nn.Module, inputs: Inputs) -> bool | None:
        """Whether both take it on ``inputs``, as far as that can be told; None where the original does not run."""
        unread = Unread()
        before = _path(original, inputs, unread)
        if before is None:
            return False if unread.is_read else None
        if not _Comparison(frozenset(), frozenset()).is_same(self.recorded, before):
            return False
        after = _path(folded, inputs, unread)
        return after is not None and _Comparison(self.gone, self.biases).is_same(self.recorded, after)


class _Comparison:
    """Of two paths, the values that correspond to each other."""

    def __init__(self, gone: frozenset[str], biases: frozenset[str]) -> None:
        self.gone = gone
        self.biases = biases
        self.stands_for: dict[str, str] = {}
        """By what is gone, the value in its place."""
        self.twins: dict[str, str] = {}
        self.taken: set[str] = set()
        """The values of the second path that have a twin."""

    def is_same(self, first: Path, second: Path) -> bool:
        """Whether the same calls run on the same values, but for those that are gone."""
        rest = iter(second.calls)
        for call in first.calls:
            if self.gone.intersection(call.outputs):
                source = call.value("input") or ""
                self.stands_for[call.outputs[0]] = self.stands_for.get(source, source)
                continue
            twin = next(rest, None)
            if twin is None or not self._is_same_call(call, twin):
                return False
            self._pair(call.outputs, twin.outputs)
            if any(len(first.shapes[one]) != len(second.shapes[other]) for one, other in self._made(call)):
                return False
        return next(rest, None) is None and self._are_same(first.outputs, second.outputs)

    def _made(self, call: Call) -> list[tuple[str, str]]:
        return [(value, self.twins[value]) for value in call.outputs]

    def _pair(self, values: Iterable[str], twins: Iterable[str]) -> None:
        self.twins |= zip(values, twins, strict=True)
        self.taken.update(twins)

    def _is_same_call(self, call: Call, twin: Call) -> bool:
        if (call.op, call.function, len(call.outputs)) != (twin.op, twin.function, len(twin.outputs)):
            return False
        if call.is_observation:
            return self._are_same(call.inputs, twin.inputs)
        return call.arguments.keys() == twin.arguments.keys() and all(
            self._is_same_argument(value, twin.arguments[name]) or self._is_gained(name, value, twin.arguments[name])
            for name, value in call.arguments.items()
        )

    def _is_gained(self, name: str, value: object, twin: object) -> bool:
        return name == "bias" and value is None and isinstance(twin, Ref) and twin.id in self.biases

    def _is_same_argument(self, value: object, twin: object) -> bool:
        if isinstance(value, Ref):
            return isinstance(twin, Ref) and self._is_same_value(value.id, twin.id)
        if isinstance(value, list | tuple) and isinstance(twin, list | tuple):
            return len(value) == len(twin) and all(map(self._is_same_argument, value, twin))
        return type(value) is type(twin) and value == twin

    def _are_same(self, values: Iterable[str], twins: Iterable[str]) -> bool:
        values, twins = tuple(values), tuple(twins)
        return len(values) == len(twins) and all(map(self._is_same_value, values, twins))

    def _is_same_value(self, value: str, twin: str) -> bool:
        """Whether two values correspond; one that nothing made is an input, and corresponds to another such."""
        value = self.stands_for.get(value, value)
        if is_stored(value) or is_stored(twin):
            return value == twin
        if value not in self.twins and twin not in self.taken:
            self._pair((value,), (twin,))
        return self.twins.get(value) == twin


def _is_direct(change: Change) -> bool:
    """Whether a batch norm stands right behind or before the layers that swallow it, and is a call of batch_norm."""
    return (
        isinstance(change, Fold)
        and change.bn.op in BATCH_NORMS
        and not (change.crossed or change.leaving)
        and all(node.kind in LAYERS for node in change.into)
    )


def _needs_no_values(call: Call) -> bool:
    """Whether the shapes that a call gives follow from the shapes that it is given."""
    if call.function is None:
        return True  # what the recorder noticed between the calls
    if torch.Tag.nondeterministic_seeded in call.function.tags and call.arguments.get("train") is not False:
        return False
    return call.op in ROWS or torch.Tag.pointwise in call.function.tags


def _path(module: nn.Module, inputs: Inputs, unread: Unread) -> Path | None:
    """The path of a light run; None where there is none."""
    seen = light_run(module, inputs, unread)
    return None if seen is None else Path.of(*seen)
