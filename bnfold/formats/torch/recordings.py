"""Several recorded runs of one module: what they show of a layer or a batch norm must be the same in all of them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from torch import nn

from bnfold.core.graph import LAYERS, SUM_KINDS, Lock, Node, OpKind
from bnfold.core.reason import Reason
from bnfold.core.sums import weights_of
from bnfold.formats.torch.calls import COMPUTED, is_stored
from bnfold.formats.torch.capture import Capture, capture
from bnfold.formats.torch.running import Inputs

ENDS = LAYERS | {OpKind.BATCH_NORM, OpKind.OPAQUE}
"""Where nothing crosses, or an affine lands: what lies behind is none of a batch norm's neighbourhood."""
FARTHEST = 64
"""So many operators away is as good as unlike: the neighbourhood is compared no further."""


def capture_all(module: nn.Module, recordings: Sequence[Inputs], unset: Collection[str] = ()) -> Capture:
    """The capture of the first run; what is surrounded by other operators in another run is locked.

    ``unset`` as for ``capture``.
    """
    first, *others = [capture(module, inputs, unset) for inputs in recordings]
    if not others:
        return first
    numbers: dict[tuple[object, ...], int] = {}
    own, *known = [_Surroundings(captured, numbers).by_key() for captured in (first, *others)]
    unlike = {key for key, number in own.items() for other in known if other.get(key, number) != number}
    lock = Lock(Reason.FAN_OUT, "on another of the recorded inputs other operators stand around it")
    nodes = tuple(
        replace(node, lock=node.lock or lock) if _key(node, first.owners) in unlike else node
        for node in first.view.nodes
    )
    view = replace(first.view, nodes=nodes)
    outputs = tuple(outputs for captured in (first, *others) for outputs in captured.outputs)
    notes = dict.fromkeys(note for captured in (first, *others) for note in captured.notes)
    knows_sizes = any(captured.knows_sizes for captured in (first, *others))
    return replace(first, view=view, outputs=outputs, notes=tuple(notes), knows_sizes=knows_sizes)


def _key(node: Node, owners: Mapping[int, str]) -> tuple[object, ...]:
    """What is the same of a layer or a batch norm in every run: its module, and its stored tensors."""
    stored = (value for value in node.inputs[1:] if is_stored(value))
    return owners.get(node.index, ""), node.kind, *stored


class _Surroundings:
    """What stands around the layers and batch norms of a run, as far as a fold may reach.

    Equal surroundings have equal numbers, in all runs that share ``numbers``.
    """

    def __init__(self, captured: Capture, numbers: dict[tuple[object, ...], int]) -> None:
        self.view = captured.view
        self.owners = captured.owners
        self.numbers = numbers
        self.seen: dict[tuple[str, str], int] = {}

    def by_key(self) -> dict[tuple[object, ...], int]:
        """By what is the same in every run, the number of what stands around it."""
        nodes = [node for node in self.view.nodes if node.kind in LAYERS or node.kind is OpKind.BATCH_NORM]
        return {_key(node, self.owners): self.around(node) for node in nodes}

    def around(self, node: Node) -> int:
        """What feeds a node and what reads it, from operator to operator."""
        below = [self.below(output, FARTHEST) for output in node.outputs]
        return self.number(node.lock is None, self.above(node.data, FARTHEST), *below)

    def above(self, value: str, left: int) -> int:
        """Who makes a value, how many read it, and what it is made of."""
        if ("above", value) not in self.seen:
            node = self.view.producer(value)
            ends = node is None or node.kind in ENDS or not left
            sources = [] if node is None or ends else [self.above(item, left - 1) for item in node.inputs if item]
            name = self.name(node) if node else self.constant(value)
            self.seen["above", value] = self.number(len(self.view.readers(value)), name, *sources)
        return self.seen["above", value]

    def below(self, value: str, left: int) -> int:
        """Who reads a value, on which slot, and what becomes of it there."""
        if ("below", value) not in self.seen:
            readers = [
                (self.name(node), slot, *(() if node.kind in ENDS or not left else self.onward(node, left - 1)))
                for node, slot in self.view.readers(value)
            ]
            self.seen["below", value] = self.number(self.view.is_output(value), *readers)
        return self.seen["below", value]

    def onward(self, node: Node, left: int) -> list[int]:
        """What becomes of each output of a node."""
        return [self.below(output, left) for output in node.outputs]

    def number(self, *parts: object) -> int:
        """The number of surroundings of these parts."""
        return self.numbers.setdefault(parts, len(self.numbers))

    def constant(self, value: str) -> str:
        """A stored tensor, or a number in the code, by what it is called in every run; any other constant; or none."""
        if self.view.constant(value) is None:
            return ""
        return value if is_stored(value) else COMPUTED

    def name(self, node: Node) -> tuple[object, ...]:
        """An operator, whose it is, and what a sum multiplies its addends by."""
        weights = weights_of(node) if node.kind in SUM_KINDS else ()
        return node.op, self.owners.get(node.index, node.label), weights
