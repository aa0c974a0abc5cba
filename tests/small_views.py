"""Graph views in one line: ``view("x conv bn relu out; conv pool")``.

A chain names values from left to right; a later chain starts at a node named before. ``x`` is the model's input,
``out`` makes what precedes it an output. A word's letters say what it is (conv2 is a conv), the word is its label. A
chain that comes to a sum which is there already adds to it: ``view("x conv add out; x bn add")``.
"""

from __future__ import annotations

import string
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from bnfold.core.graph import Constant, GraphView, Node, OpKind, Value
from bnfold.core.traits import BatchNormTraits, LayerTraits
from bnfold.planner import plan

CHANNELS = 3
KINDS = {
    "conv": OpKind.CONV,
    "linear": OpKind.LINEAR,
    "bn": OpKind.BATCH_NORM,
    "add": OpKind.ADD,
    "identity": OpKind.LAYOUT,
    "shape": OpKind.SHAPE,
}
PARAMETERS = ("gamma", "beta", "mean", "variance")


def view(
    text: str, *, rank: int | None = 4, change: dict[str, Callable[[Node], Node]] | None = None, **arrays: Any
) -> GraphView:
    """The view that ``text`` describes; ``change`` maps a label to what is done to its node.

    ``arrays`` are the constants that differ from the default, as ``label_parameter`` (``bn_gamma``, ``conv_weight``).
    """
    nodes: list[Node] = []
    values: dict[str, Value] = {}
    outputs = set()
    for chain in text.split(";"):
        current = ""
        for word in chain.split():
            if word == "out":
                outputs.add(current)
            elif not current and (word == "x" or word in values):
                current = word
            elif word in values:
                adder = next(node for node in nodes if node.label == word)
                nodes[adder.index] = replace(adder, inputs=(*adder.inputs, current))
                current = word
            else:
                node = _node(len(nodes), word, current, values, arrays)
                nodes.append(change[word](node) if change and word in change else node)
                values[word] = Value(word)
                current = word
    shapes = dict.fromkeys(values, (None,) * rank) if rank else {}
    return GraphView(tuple(nodes), values.get, frozenset(outputs), lambda: shapes)


def constant(name: str, array: Any, dtype: str = "") -> Value:
    """A constant value."""
    array = array if isinstance(array, np.ndarray) else np.asarray(array, dtype=np.float64)
    return Value(name, Constant(name, dtype or str(array.dtype), array.shape, lambda: array))


def locked(reason: Any) -> Callable[[Node], Node]:
    """A change: the front end forbids to touch the node."""
    from bnfold.core.graph import Lock

    return lambda node: replace(node, lock=Lock(reason, "says the test"))


def _node(index: int, word: str, data: str, values: dict[str, Value], arrays: dict[str, Any]) -> Node:
    op = word.rstrip(string.digits)
    kind = KINDS.get(op, OpKind.OPAQUE)
    if kind is OpKind.BATCH_NORM:
        defaults = dict(zip(PARAMETERS, np.linspace(0.5, 2.0, 4 * CHANNELS).reshape(4, CHANNELS), strict=True))
        inputs = (data, *(_constant_id(word, name, defaults[name], values, arrays) for name in PARAMETERS))
        return Node(index, kind, op, word, inputs, (word,), BatchNormTraits(1e-5))
    if kind in {OpKind.CONV, OpKind.LINEAR}:
        shape = (CHANNELS, 2, 3, 3) if kind is OpKind.CONV else (CHANNELS, 2)
        weight = _constant_id(word, "weight", np.linspace(-1, 1, int(np.prod(shape))).reshape(shape), values, arrays)
        bias = _constant_id(word, "bias", np.linspace(0, 1, CHANNELS), values, arrays)
        traits = LayerTraits(channel_axis=1 if kind is OpKind.CONV else -1)
        return Node(index, kind, op, word, (data, weight, bias), (word,), traits)
    return Node(index, kind, op, word, (data,), (word,))


def _constant_id(word: str, name: str, default: Any, values: dict[str, Value], arrays: dict[str, Any]) -> str | None:
    given = arrays.get(f"{word}_{name}", default)
    if given is None:
        return None
    value_id = f"{word}.{name}"
    values[value_id] = given if isinstance(given, Value) else constant(value_id, given)
    return value_id


def looks_of_a_plan(graph: GraphView) -> int:
    """How often a plan asks for a value."""
    looks = 0

    def counting(value: str) -> Value | None:
        nonlocal looks
        looks += 1
        return graph.value_of(value)

    plan(replace(graph, value_of=counting))
    return looks
