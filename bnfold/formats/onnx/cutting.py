"""The part of a graph that values are computed from."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

from onnx import GraphProto, NodeProto

from bnfold.formats.onnx.scopes import subgraphs


def reads_of(graph: GraphProto) -> Mapping[int, Sequence[int]]:
    """By position of each node those of the nodes whose values it reads."""
    producers = {name: position for position, node in enumerate(graph.node) for name in node.output if name}
    return {
        position: [producers[name] for name in dict.fromkeys(names_read(node)) if name in producers]
        for position, node in enumerate(graph.node)
    }


def copy_needed(source: GraphProto, target: GraphProto, values: Collection[str]) -> None:
    """Copy all that ``values`` are computed from, and every input that is no default."""
    producers = {name: position for position, node in enumerate(source.node) for name in node.output if name}
    needed, nodes, pending = set(values), set(), list(values)
    while pending:
        position = producers.get(pending.pop())
        if position is None or position in nodes:
            continue
        nodes.add(position)
        names = set(names_read(source.node[position]))
        pending += names - needed
        needed |= names
    stored = {tensor.name for tensor in source.initializer}
    target.name = source.name
    target.node.extend(source.node[position] for position in sorted(nodes))
    target.initializer.extend(tensor for tensor in source.initializer if tensor.name in needed)
    target.sparse_initializer.extend(item for item in source.sparse_initializer if item.values.name in needed)
    target.input.extend(value for value in source.input if value.name in needed or value.name not in stored)


def names_read(node: NodeProto) -> Iterator[str]:
    """The names that a node reads, also those that its subgraphs take from around them."""
    yield from node.input
    for graph in subgraphs(node):
        yield from (value.name for value in graph.output)
        for inner in graph.node:
            yield from names_read(inner)
