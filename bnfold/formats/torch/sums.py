"""ATen calls that add values up, element by element, in the words of the graph view: one function a row."""

from __future__ import annotations

from bnfold.core.graph import OpKind
from bnfold.core.traits import WeightedSumTraits
from bnfold.formats.torch.calls import Call
from bnfold.formats.torch.operators import Meaning, Row, Shapes, opaque


def _add(call: Call, _shapes: Shapes) -> Meaning:
    """Add of two tensors, in place or not; a factor of the second is its weight."""
    is_plain = len(call.inputs) == len(("self", "other")) and call.arguments.get("alpha", 1) == 1
    return Meaning(OpKind.ADD, call.inputs) if is_plain else _weighted(call, 1)


def _subtract(call: Call, _shapes: Shapes) -> Meaning:
    """Subtract one tensor from another, in place or not, perhaps times a factor."""
    return _weighted(call, -1)


def _weighted(call: Call, sign: int) -> Meaning:
    """One tensor plus sign · alpha times another."""
    alpha = call.arguments.get("alpha", 1)
    if len(call.inputs) != len(("self", "other")) or not isinstance(alpha, int | float) or alpha == 0:
        return opaque(call)
    return Meaning(OpKind.WEIGHTED_SUM, call.inputs, WeightedSumTraits((1.0, sign * float(alpha))))


def _negate(call: Call, _shapes: Shapes) -> Meaning:
    """neg, negative."""
    return Meaning(OpKind.WEIGHTED_SUM, call.inputs, WeightedSumTraits((-1.0,)))


ROWS: dict[str, Row] = {
    **dict.fromkeys(("add", "add_"), _add),
    **dict.fromkeys(("sub", "sub_", "subtract", "subtract_"), _subtract),
    **dict.fromkeys(("neg", "neg_", "negative", "negative_"), _negate),
}
