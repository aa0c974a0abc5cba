"""What becomes of each batch norm: folded, or kept with its reason. A plan holds exactly one verdict per batch norm."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from bnfold.core.affine import Affine
from bnfold.core.graph import LAYERS, SUM_KINDS, Node, OpKind
from bnfold.core.reason import Reason
from bnfold.core.steps import Join, LayerStep, Side

FAR_FROM_ONE = 1e4
"""A scale above this, or below its inverse, is folded with a warning: the folded weights span many magnitudes."""


@dataclass(frozen=True, eq=False)
class Edit:
    """A node that stays (a layer, or another batch norm), and the affines that it swallows, in order."""

    node: Node
    steps: tuple[LayerStep, ...]


@dataclass(frozen=True, eq=False)
class Leaving:
    """An addend that a sum loses, since a layer beside it does its work.

    ``sum`` reads it on ``slot``; ``alone`` are the nodes that served nobody but it, and go too.
    """

    sum: Node
    slot: int
    alone: tuple[Node, ...] = ()


@dataclass(frozen=True, eq=False)
class Fold:
    """A batch norm that goes away: its affine map, the rule that found it a place, and the nodes that swallow it.

    ``crossed`` are the nodes between, which let the affine pass and stay as they are. With ``leaving`` it was an
    addend, and nothing takes its place.
    """

    bn: Node
    affine: Affine
    rule: str
    edits: tuple[Edit, ...]
    crossed: tuple[Node, ...] = ()
    leaving: tuple[Leaving, ...] = ()
    stays: str = ""
    """Why it is run all the same, as one that changes nothing; empty where it is not."""

    def __str__(self) -> str:
        """The verdict in a line; names of the model's are quoted, and escaped with that."""
        return f"folded into {', '.join(repr(node.label) for node in self.into)}"

    @property
    def removed(self) -> tuple[Node, ...]:
        """The nodes that are no more."""
        return (self.bn, *(node for leaving in self.leaving for node in leaving.alone))

    @property
    def stands_for(self) -> dict[str, str]:
        """By the batch norm's output, the value that takes its place."""
        return {} if self.leaving else {self.bn.outputs[0]: self.bn.data}

    @property
    def normalised(self) -> frozenset[int]:
        """The nodes whose outputs it normalised, or that took it in."""
        if self.bn.kind is not OpKind.BATCH_NORM:
            return frozenset()
        ends = (
            edit for edit in self.edits for step in edit.steps if isinstance(step, Join) or step.side is Side.OUTPUTS
        )
        return frozenset(edit.node.index for edit in ends)

    @property
    def into(self) -> tuple[Node, ...]:
        """The nodes that swallow it, each once."""
        return tuple({edit.node.index: edit.node for edit in self.edits}.values())

    @property
    def touched(self) -> frozenset[int]:
        """The indices of all nodes that this fold relies on."""
        sums = (leaving.sum for leaving in self.leaving)
        return frozenset(node.index for node in (*self.removed, *self.crossed, *self.into, *sums))

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a careful user should know, though the fold is exact."""
        neutralised = Reason.NEUTRALISED_NOT_REMOVED
        why = self.stays or self.bn.stays
        return (*((f"{neutralised.code} {neutralised.slug}: {why}",) if why else ()), *self._numbers())

    def _numbers(self) -> tuple[str, ...]:
        """The channels whose scale is far from 1, as a warning."""
        far = [
            channel
            for channel, scale in enumerate(self.affine.scale)
            if scale != 0 and not 1 / FAR_FROM_ONE <= abs(scale) <= FAR_FROM_ONE
        ]
        if not far:
            return ()
        return (f"the scale is far from 1 in {channel_list(far)}: folded weights span many orders of magnitude",)


@dataclass(frozen=True, eq=False)
class JoinedLayers:
    """Layers, means and plain values that leave a sum, since the layer of ``edit`` beside them takes them in."""

    edit: Edit
    leaving: tuple[Leaving, ...]

    @property
    def edits(self) -> tuple[Edit, ...]:
        """What becomes of the layer that stays."""
        return (self.edit,)

    @property
    def removed(self) -> tuple[Node, ...]:
        """The nodes that are no more."""
        return tuple(node for leaving in self.leaving for node in leaving.alone)

    @property
    def stands_for(self) -> dict[str, str]:
        """Nothing takes the place of an addend."""
        return {}

    @property
    def normalised(self) -> frozenset[int]:
        """It joins layers, and normalises none."""
        return frozenset()


@dataclass(frozen=True, eq=False)
class Keep:
    """A batch norm that stays: the nearest miss. ``node`` is in the way; None is the edge of the model."""

    bn: Node
    reason: Reason
    node: Node | None
    detail: str

    def __str__(self) -> str:
        """The verdict in a line, as for a fold."""
        at = f" at {self.node.label!r}" if self.node and self.node is not self.bn else ""
        why = f": {self.detail}" if self.detail else ""
        return f"kept, {self.reason.code} {self.reason.slug}{at}{why}"


Verdict = Fold | Keep
Change = Fold | JoinedLayers
"""What a round of the planner makes of a view."""


@dataclass(frozen=True, eq=False)
class Plan:
    """One verdict per batch norm, in graph order, and the edits that all folds together make, one per node.

    ``also_folded`` are runs of constants that are no batch norms, and fold as well; ``joined`` are layers beside one
    another in sums that became one; ``left`` are the sums, by index in graph order, with the input slots whose addends
    are gone.
    """

    verdicts: tuple[Verdict, ...]
    edits: tuple[Edit, ...]
    also_folded: tuple[Fold, ...] = ()
    joined: tuple[JoinedLayers, ...] = ()
    left: tuple[tuple[int, frozenset[int]], ...] = ()

    def __str__(self) -> str:
        """A line for each batch norm."""
        return "\n".join(f"{verdict.bn.label!r}: {verdict}" for verdict in self.verdicts)

    def __len__(self) -> int:
        return len(self.verdicts)

    def __iter__(self) -> Iterator[Verdict]:
        return iter(self.verdicts)

    @property
    def folds(self) -> tuple[Fold, ...]:
        """The verdicts that fold, in graph order."""
        return tuple(verdict for verdict in self.verdicts if isinstance(verdict, Fold))

    @property
    def removals(self) -> tuple[Fold, ...]:
        """Everything that folds, batch norms and other runs, in graph order."""
        return tuple(sorted((*self.folds, *self.also_folded), key=lambda fold: fold.bn.index))

    @property
    def changes(self) -> tuple[Change, ...]:
        """Everything that becomes of the model; nothing, where it stays as it is."""
        return (*self.removals, *self.joined)

    @property
    def reaches_sums(self) -> bool:
        """Whether a fold took place in a sum, or through one: its layers could be one."""
        return any(fold.leaving or any(node.kind in SUM_KINDS for node in fold.crossed) for fold in self.folds)

    @property
    def merged_layers(self) -> int:
        """How many layers another one beside them took in."""
        return sum(node.kind in LAYERS for joined in self.joined for node in joined.removed)

    def ends_of(self, fold: Fold) -> tuple[Node, ...]:
        """The nodes that do the work of a fold once everything is done: what swallowed it may itself be no more."""
        ends: dict[int, Node] = {}
        seen: set[int] = set()
        pending = list(fold.into[::-1])
        while pending:
            node = pending.pop()
            heirs = self._heirs.get(node.index)
            if heirs is None:
                ends[node.index] = node
            elif node.index not in seen:
                seen.add(node.index)
                pending += heirs[::-1]
        return tuple(ends.values())

    @cached_property
    def _heirs(self) -> dict[int, tuple[Node, ...]]:
        """By index of a node that is no more: those that it was folded into, or joined with."""
        folded = {fold.bn.index: fold.into for fold in self.removals}
        return folded | {node.index: (joined.edit.node,) for joined in self.joined for node in joined.removed}

    @property
    def keeps(self) -> tuple[Keep, ...]:
        """The verdicts that keep, in graph order."""
        return tuple(verdict for verdict in self.verdicts if isinstance(verdict, Keep))


def channel_list(channels: list[int], shown: int = 8) -> str:
    """``channel 3``, ``channels 1, 2, 5`` or ``channels 0, 1, … (12 in all)``."""
    names = ", ".join(map(str, channels[:shown]))
    if len(channels) > shown:
        return f"channels {names}, … ({len(channels)} in all)"
    return f"channel{'s' if len(channels) > 1 else ''} {names}"
