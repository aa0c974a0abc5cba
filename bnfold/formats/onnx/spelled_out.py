"""Batch statistics spelled out: a batch norm whose mean and variance the model computes from what goes into it.

torch's exporter writes a batch norm without running statistics as ReduceMean, Sub and Mul beside a BatchNormalization.
"""

from __future__ import annotations

from collections.abc import Callable

from onnx import GraphProto, NodeProto

from bnfold.formats.onnx.cutting import names_read
from bnfold.formats.onnx.scopes import ONNX_DOMAINS

AVERAGING = frozenset({"ReduceMean", "Squeeze", "Unsqueeze", "Reshape", "Identity", "Cast"})
DEVIATING = frozenset({"Sub", "Mul", "Pow"})


def spelled_out(graph: GraphProto, batch_norm: NodeProto, is_known: Callable[[str], bool]) -> frozenset[int]:
    """The positions of the nodes that compute the statistics of ``batch_norm`` from its input alone; none otherwise.

    They are such statistics where the mean is an average of the input, and the variance one of squared differences.
    """
    data, _, _, mean, variance = batch_norm.input
    mean_chain = _chain(graph, mean, data, is_known)
    variance_chain = _chain(graph, variance, data, is_known)
    mean_steps, variance_steps = ({graph.node[at].op_type for at in chain} for chain in (mean_chain, variance_chain))
    is_mean = "ReduceMean" in mean_steps and mean_steps <= AVERAGING
    is_variance = {"ReduceMean", "Sub"} <= variance_steps and bool(variance_steps & {"Mul", "Pow"})
    if is_mean and is_variance and variance_steps <= AVERAGING | DEVIATING:
        return mean_chain | variance_chain
    return frozenset()


def unread(graph: GraphProto, positions: frozenset[int]) -> frozenset[int]:
    """Those of ``positions`` whose values nobody reads but others of them."""
    outputs = {value.name for value in graph.output}
    left = set(positions)
    read = [set(names_read(node)) for node in graph.node]
    made = {at: set(graph.node[at].output) for at in positions}
    readers = {at: {reader for reader, names in enumerate(read) if names & made[at]} for at in positions}
    while kept := [at for at in left if readers[at] - left or outputs & made[at]]:
        left.difference_update(kept)
    return frozenset(left)


def _chain(graph: GraphProto, value: str, data: str, is_known: Callable[[str], bool]) -> frozenset[int]:
    """All that lies between ``data`` and ``value``; nothing where anything else goes in, or ``data`` does not."""
    producers = {name: at for at, node in enumerate(graph.node) for name in node.output if name}
    found: set[int] = set()
    pending, starts_at_data = [value], False
    while pending:
        name = pending.pop()
        if name == data:
            starts_at_data = True
            continue
        if not name or is_known(name):
            continue
        at = producers.get(name)
        if at is None or graph.node[at].domain not in ONNX_DOMAINS:
            return frozenset()
        if at not in found:
            found.add(at)
            pending += names_read(graph.node[at])
    return frozenset(found) if starts_at_data else frozenset()
