"""Local functions: their bodies as graphs, who calls them, and the way back.

A body is worked on as a graph of its own, whose inputs are the function's. What is folded in it holds for every call:
its constants are its own, or come from the only call there is. New tensors become Constant nodes, since a body sees
nothing from around it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from onnx import FunctionProto, GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper

from bnfold.formats.onnx.scopes import ONNX_DOMAINS, Call, Scope, scope_of, scopes_within, subgraphs
from bnfold.formats.onnx.tensors import NewTensor
from bnfold.formats.onnx.versions import is_same_operator


def function_scopes(model: ModelProto, graphs: list[Scope]) -> list[Scope]:
    """The bodies of the functions of ``model``, and the graphs in them; ``graphs`` are those of the model itself."""
    found: list[Scope] = []
    bodies: dict[tuple[str, str, str], Scope] = {}
    for function in model.functions:
        prefix = f"{len(graphs) + len(found)}:"
        body = scope_of(_as_graph(function), None, prefix, function)
        bodies[_key(function.domain, function.name, function.overload)] = body
        found += scopes_within(body, len(graphs) + len(found))
    for scope in (*graphs, *found):
        for node in scope.graph.node:
            called = bodies.get(_key(node.domain, node.op_type, node.overload))
            if called is not None:
                called.calls.append(Call(scope, node))
    return found


def shadowed_operators(model: ModelProto) -> frozenset[str]:
    """Names of standard operators that mean a function of the model."""
    return frozenset(function.name for function in model.functions if function.domain in ONNX_DOMAINS)


def changed_operator(function: FunctionProto, opset: int) -> str:
    """The first standard operator in a function that is another one at the model's ``opset``; empty where none is.

    Such a function is no valid one (onnx's checker says so), and runtimes do not agree on which of the two they run.
    """
    others = {item.version for item in function.opset_import if item.domain in ONNX_DOMAINS} - {opset}
    nodes = list(function.node) if others else []
    for node in nodes:  # grows while it is walked
        if node.domain in ONNX_DOMAINS and not all(is_same_operator(node.op_type, own, opset) for own in others):
            return str(node.op_type)
        nodes += [inner for graph in subgraphs(node) for inner in graph.node]
    return ""


def write_back(scopes: Sequence[Scope], new: Mapping[str, NewTensor], opset: int) -> None:
    """Let functions be what became of their bodies, with ``new`` tensors by name; callers give them what they read.

    What is new in a body is of the model's ``opset``, at which the rest of it is the same as at its own.
    """
    bodies = [(scope.function, scope) for scope in scopes if scope.function]
    for function, scope in bodies:
        _drop_inputs(function, scope)
    for function, scope in bodies:
        if scope.graph.initializer or list(function.node) != list(scope.graph.node):
            del function.node[:], function.value_info[:]
            function.node.extend(_constant_node(tensor, new[tensor.name]) for tensor in scope.graph.initializer)
            function.node.extend(scope.graph.node)
            function.value_info.extend(scope.graph.value_info)
            for item in function.opset_import:
                item.version = opset if item.domain in ONNX_DOMAINS else item.version


def _drop_inputs(function: FunctionProto, scope: Scope) -> None:
    wanted = {value.name for value in scope.graph.input}
    for position in reversed(range(len(function.input))):
        if function.input[position] not in wanted:
            del function.input[position]
            for call in scope.calls:
                del call.node.input[position : position + 1]


def _constant_node(tensor: TensorProto, values: NewTensor) -> NodeProto:
    tensor.raw_data = b"".join(values.pieces())
    return helper.make_node("Constant", [], [tensor.name], value=tensor)


def _as_graph(function: FunctionProto) -> GraphProto:
    graph = GraphProto(name=function.name, node=function.node, value_info=function.value_info)
    graph.input.extend(ValueInfoProto(name=name) for name in function.input)
    graph.output.extend(ValueInfoProto(name=name) for name in function.output)
    return graph


def _key(domain: str, name: str, overload: str) -> tuple[str, str, str]:
    return ("" if domain in ONNX_DOMAINS else domain, name, overload)
