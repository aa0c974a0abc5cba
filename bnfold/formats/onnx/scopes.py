"""The graphs of a model: the main one, the bodies of If, Loop and Scan, which see the names around them, and functions.

A value's id is its name with its scope's prefix, so that two branches may use one name for two values.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from onnx import AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto

ONNX_DOMAINS = frozenset({"", "ai.onnx"})
"""The two names of the standard operators' domain."""


OVERRIDABLE_FROM_IR = 4
"""From this IR version on an initializer that is also a graph input is a default that callers may replace."""


@dataclass(frozen=True, eq=False)
class Scope:
    """A graph, the graph around it, and the names that it defines itself."""

    graph: GraphProto
    parent: Scope | None
    prefix: str
    defined: frozenset[str]
    function: FunctionProto | None = None
    """The local function of which this is the body."""
    calls: list[Call] = field(default_factory=list)
    """Who calls it."""

    @property
    def root(self) -> Scope:
        """The outermost graph around: the main one, or a function's body, which sees nothing beyond."""
        return self.parent.root if self.parent else self

    def owner(self, name: str) -> Scope | None:
        """The innermost scope, from this one outward, that defines ``name``; None where nobody does."""
        if name in self.defined:
            return self
        return self.parent.owner(name) if self.parent else None

    def id(self, name: str) -> str:
        """The id of the value that ``name`` means here."""
        owner = self.owner(name) or self
        return owner.prefix + name


@dataclass(frozen=True, eq=False)
class Call:
    """A node that calls a function, and the graph that it is in."""

    scope: Scope
    node: NodeProto


_INNER_PREFIX = re.compile(r"\d+:")
"""How ids in inner graphs begin; where a name of the main graph does too, its ids begin with a colon."""


def scopes_of(model: ModelProto) -> list[Scope]:
    """Every graph of the model, outer before inner, in the order of the nodes that own them."""
    main = scope_of(model.graph, None, "")
    looks_inner = any(_INNER_PREFIX.match(name) for name in main.defined)
    return scopes_within(replace(main, prefix=":") if looks_inner else main, 0)


def scopes_within(root: Scope, number: int) -> list[Scope]:
    """``root``, the graph of this number, and every graph in it, outer before inner."""
    found = [root]
    for scope in found:  # grows while it is walked
        for node in scope.graph.node:
            for graph in subgraphs(node):
                found.append(scope_of(graph, scope, f"{number + len(found)}:"))
    return found


def subgraphs(node: NodeProto) -> Iterator[GraphProto]:
    """The graphs in a node's attributes."""
    for attribute in node.attribute:
        if attribute.type == AttributeProto.GRAPH:
            yield attribute.g
        elif attribute.type == AttributeProto.GRAPHS:
            yield from attribute.graphs


def scope_of(graph: GraphProto, parent: Scope | None, prefix: str, function: FunctionProto | None = None) -> Scope:
    """A graph, with the names that it defines."""
    defined = {value.name for value in graph.input}
    defined |= {tensor.name for tensor in graph.initializer}
    defined |= {tensor.values.name for tensor in graph.sparse_initializer}
    defined |= {name for node in graph.node for name in node.output if name}
    return Scope(graph, parent, prefix, frozenset(defined), function)


def uses_in(scopes: list[Scope]) -> dict[str, list[tuple[Scope, int]]]:
    """The input slots that read each value, wherever in the model they are, as graph and position."""
    uses: defaultdict[str, list[tuple[Scope, int]]] = defaultdict(list)
    for scope in scopes:
        for position, proto in enumerate(scope.graph.node):
            for name in proto.input:
                uses[scope.id(name)].append((scope, position))
    return dict(uses)
