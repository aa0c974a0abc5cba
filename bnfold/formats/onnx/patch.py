"""Changes to a protobuf that are carried out together: nodes in and out, names joined, nothing unread left behind."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Any, Protocol

from onnx import GraphProto, ModelProto, NodeProto, helper

from bnfold.formats.onnx.scopes import OVERRIDABLE_FROM_IR, Scope
from bnfold.formats.onnx.tensors import NewTensor


class Repeated(Protocol):
    """A repeated field of messages."""

    def __iter__(self) -> Iterator[Any]: ...
    def __delitem__(self, position: slice) -> None: ...
    def sort(self, *, key: Callable[[Any], Any]) -> None:
        """Bring the messages into the order of what ``key`` gives, which is asked once for each, in order."""


class Patch:
    """Who makes and reads each name of a model, and what is to change.

    Node positions stay valid until ``finish``, which carries out insertions and removals.
    """

    def __init__(self, model: ModelProto, scopes: list[Scope], is_constant: Callable[[str], bool]) -> None:
        self.model = model
        self.producers = {
            scope.id(name): node for scope in scopes for node in scope.graph.node for name in node.output if name
        }
        self.tensors: dict[str, NewTensor] = {}
        """The new initializers, by name."""
        self._scopes = scopes
        self._is_constant = is_constant
        self._names = _all_names(scopes)
        self._readers = _readers(scopes)
        self._removed: list[tuple[GraphProto, int]] = []
        self._inserted: list[tuple[GraphProto, int, NodeProto]] = []
        self._orphans: list[tuple[Scope, str]] = []
        self._vanished: defaultdict[str, set[str]] = defaultdict(set)

    def insert(self, scope: Scope, position: int, node: NodeProto) -> None:
        """Put ``node`` before the one at ``position``, behind those that were put there earlier."""
        self._inserted.append((scope.graph, position, node))
        self.producers |= {scope.id(name): node for name in node.output}
        for name in node.input:
            self._readers[scope.id(name)][id(node)] = node

    def remove(self, scope: Scope, positions: Iterable[int], parameters: Iterable[str]) -> None:
        """Take the nodes at ``positions`` out; their ``parameters`` go too, unless somebody else reads them."""
        for position in positions:
            node = scope.graph.node[position]
            self._removed.append((scope.graph, position))
            for name in node.input:
                self._readers[scope.id(name)].pop(id(node), None)
        self.orphan(scope, parameters)

    def forget(self, scope: Scope, name: str) -> None:
        """A value is no more, and nobody reads it."""
        self._vanished[scope.prefix].add(name)

    def orphan(self, scope: Scope, names: Iterable[str]) -> None:
        """Tensors that lost a reader in ``scope``."""
        self._orphans += [(scope, name) for name in names if name]

    def rename_output(self, scope: Scope, old: str, new: str) -> None:
        """Whoever makes ``old`` makes ``new``, and whoever reads it reads that; ``old`` is no more."""
        producer = self.producers.pop(scope.id(old))
        producer.output[list(producer.output).index(old)] = new
        self.producers[scope.id(new)] = producer
        self.read_instead(scope, old, new)

    def read_instead(self, scope: Scope, old: str, new: str) -> None:
        """Whoever reads ``old`` reads ``new``; ``old`` is no more."""
        readers = self._readers.pop(scope.id(old), {})
        for reader in readers.values():
            _rename_input(reader, old, new)
        self._readers[scope.id(new)] |= readers
        self._vanished[scope.prefix].add(old)

    def finish(self) -> None:
        """Carry out insertions and removals, then drop what nobody reads."""
        graphs: dict[int, GraphProto] = {}
        removed: defaultdict[int, set[int]] = defaultdict(set)
        inserted: defaultdict[int, list[tuple[int, NodeProto]]] = defaultdict(list)
        for graph, position in self._removed:
            graphs[id(graph)] = graph
            removed[id(graph)].add(position)
        for graph, position, node in self._inserted:
            graphs[id(graph)] = graph
            inserted[id(graph)].append((position, node))
        for key, graph in graphs.items():
            _change_nodes(graph, removed[key], inserted[key])
        self._drop_orphans()
        for scope in self._scopes:
            _drop(scope.graph.value_info, self._vanished[scope.prefix])

    def _drop_orphans(self) -> None:
        """Drop old tensors that nobody reads any more, and the nodes that made them."""
        uses = Counter(scope.id(name) for scope in self._scopes for node in scope.graph.node for name in node.input)
        uses.update(scope.id(value.name) for scope in self._scopes for value in scope.graph.output)
        dropped: defaultdict[str, set[str]] = defaultdict(set)
        pending = self._orphans
        while pending:
            reader, name = pending.pop()
            scope = reader.owner(name)
            if scope is None or uses[scope.id(name)] or name in dropped[scope.prefix]:
                continue
            if not self._is_constant(scope.id(name)):
                continue
            dropped[scope.prefix].add(name)
            node = self.producers.get(scope.id(name))
            sources = [(scope, source) for source in (node.input if node else ())]
            for reader, source in sources + _arguments(scope, name):
                uses[reader.id(source)] -= 1
                pending.append((reader, source))
        for scope in self._scopes:
            names = dropped[scope.prefix]
            self._vanished[scope.prefix] |= names
            _drop(scope.graph.input, names)
            _drop(scope.graph.initializer, names)
            _drop_nodes(scope.graph, names)

    def add_tensor(self, scope: Scope, wish: str, tensor: NewTensor) -> str:
        """A new initializer of the graph around, which every subgraph sees; before IR 4 it must be an input too.

        Its name is ``unused(wish)``. The protobuf gets no values, which it would copy three times.
        """
        graph, name = scope.root.graph, self.unused(wish)
        graph.initializer.add(name=name, dims=tensor.shape, data_type=tensor.data_type)
        self.tensors[name] = tensor
        if self.model.ir_version < OVERRIDABLE_FROM_IR:
            graph.input.append(helper.make_tensor_value_info(name, tensor.data_type, tensor.shape))
        return name

    def unused(self, wish: str) -> str:
        """``wish``, or the first of ``wish_2``, ``wish_3``, … that nothing in the model is called."""
        name, number = wish, 1
        while name in self._names:
            number += 1
            name = f"{wish}_{number}"
        self._names.add(name)
        return name


def _arguments(scope: Scope, name: str) -> list[tuple[Scope, str]]:
    """What the callers of a function give it as ``name``, if that is an input of it, and in which graph."""
    inputs = list(scope.function.input) if scope.function else []
    if name not in inputs:
        return []
    position = inputs.index(name)
    return [(call.scope, call.node.input[position]) for call in scope.calls if position < len(call.node.input)]


def _readers(scopes: list[Scope]) -> defaultdict[str, dict[int, NodeProto]]:
    """The nodes that read each value in its own graph, by their ``id``: finding one among many takes no search."""
    readers: defaultdict[str, dict[int, NodeProto]] = defaultdict(dict)
    for scope in scopes:
        for node in scope.graph.node:
            for name in node.input:
                readers[scope.id(name)][id(node)] = node
    return readers


def _rename_input(node: NodeProto, old: str, new: str) -> None:
    """Let ``node`` read ``new`` wherever it reads ``old``."""
    for slot, name in enumerate(node.input):
        if name == old:
            node.input[slot] = new


def _drop(items: Repeated, names: Iterable[str]) -> None:
    """Delete the items that have one of these names."""
    unwanted = set(names)
    gone = [item.name in unwanted for item in items]
    _arrange(items, gone, removed=sum(gone))


def _drop_nodes(graph: GraphProto, names: Iterable[str]) -> None:
    """Delete the nodes that produce nothing but these names."""
    unwanted = set(names)
    if not unwanted:
        return
    gone = [bool(node.output) and unwanted.issuperset(node.output) for node in graph.node]
    _arrange(graph.node, gone, removed=sum(gone))


def _change_nodes(graph: GraphProto, removed: Collection[int], inserted: Sequence[tuple[int, NodeProto]]) -> None:
    """Put nodes before those at their positions, in order, and remove the nodes at the positions ``removed``."""
    places = [(position in removed, position, 1) for position in range(len(graph.node))]
    graph.node.extend(node for _, node in inserted)
    places += [(False, position, 0) for position, _ in inserted]
    _arrange(graph.node, places, removed=len(removed))


def _arrange(items: Repeated, places: Sequence[Any], *, removed: int) -> None:
    """Bring items into the order of their ``places``, and delete the last ``removed``.

    Sorting moves no message; deleting one by one would take a time that grows with the square of their number.
    """
    if not removed and list(places) == sorted(places):
        return
    order = iter(places)
    items.sort(key=lambda _: next(order))
    del items[len(places) - removed :]


def _all_names(scopes: list[Scope]) -> set[str]:
    """Every name of a value or node, anywhere in the model."""
    names = {name for scope in scopes for name in scope.defined}
    for scope in scopes:
        for node in scope.graph.node:
            names.add(node.name)
            names.update(node.input)
    return names
