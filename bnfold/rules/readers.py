"""Who reads a value that a fold would change."""

from __future__ import annotations

from bnfold.core.graph import GraphView, Node
from bnfold.core.reason import Miss, Reason

READERS_NAMED = 4
"""So many are named; a layer of a dense network has a hundred."""


def require_sole_reader(view: GraphView, value: str, node: Node) -> None:
    """Changing ``value``, which ``node`` computes, must change nothing but the path to the batch norm. Raises Miss."""
    if view.is_output(value):
        raise Miss(Reason.MODEL_OUTPUT, node, f"the output of {node.op} {node.label!r} is an output of the model")
    readers = view.readers(value)
    if len(readers) > 1:
        names = [f"{use.node.op} {use.node.label!r}" for use in readers[:READERS_NAMED]]
        named = ", ".join([*names, *(["…"] if len(readers) > READERS_NAMED else [])])
        raise Miss(Reason.FAN_OUT, node, f"the output of {node.op} {node.label!r} has {len(readers)} readers: {named}")
