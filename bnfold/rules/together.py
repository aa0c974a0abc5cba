"""What one round of the planner folds: folds found on the same view, none of which stands in another's way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from bnfold.core.graph import LAYERS, GraphView
from bnfold.core.kernel import fits
from bnfold.core.steps import Join, LayerStep, composed
from bnfold.core.verdict import Fold


@dataclass(eq=False)
class Together:
    """Folds that are made together.

    What one removes, no other relies on. Layers and what lies before them may serve several: two batch norms behind
    parts of one layer's output, or before parts of one layer's input, change different channels of it (or shift the
    same sum), in any order. Whether its dtype can hold that is asked for all of them.
    """

    view: GraphView
    folds: list[Fold] = field(default_factory=list)
    _removed: set[int] = field(default_factory=set)
    _relied_on: set[int] = field(default_factory=set)
    _steps: dict[int, tuple[LayerStep, ...]] = field(default_factory=dict)

    def take(self, found: Sequence[Fold], *, may_share: bool) -> None:
        """Take in folds that belong together, unless they have to wait for the next round."""
        removed = {node.index for fold in found for node in fold.removed}
        relied_on = {index for fold in found for index in fold.touched} - removed
        if not self._removed.isdisjoint(removed | relied_on) or not self._relied_on.isdisjoint(removed):
            return
        if not (self._relied_on.isdisjoint(relied_on) or (may_share and self._fit(found))):
            return
        self._removed |= removed
        self._relied_on |= relied_on
        for edit in (edit for fold in found for edit in fold.edits):
            self._steps[edit.node.index] = composed((*self._steps.get(edit.node.index, ()), *edit.steps))
        self.folds += found

    def _fit(self, found: Sequence[Fold]) -> bool:
        """Whether each layer can hold what is already taken in and these folds as well.

        What a layer takes over from beside it is no affine, and comes in its own order.
        """
        edits = [edit for fold in found for edit in fold.edits if edit.steps]
        taken = [(edit.node, (*self._steps.get(edit.node.index, ()), *edit.steps)) for edit in edits]
        return all(
            node.kind in LAYERS
            and not any(isinstance(step, Join) for step in steps)
            and fits(self.view, node, (*self.view.steps.get(node.index, ()), *steps))
            for node, steps in taken
        )
