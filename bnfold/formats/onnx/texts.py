"""Names in a model are texts: what is no UTF-8 comes out of protobuf as bytes, and nothing can be said of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, ValueInfoProto

from bnfold.errors import InputError


def require_texts(model: ModelProto, *, where: str = "") -> None:
    """Every name in ``model`` is UTF-8, as the standard has it. Raises InputError with the first that is not."""
    for name in _names(model):
        if isinstance(name, bytes):
            raise InputError(
                f"a name in the ONNX model is not UTF-8: {name[:40]!r}",
                where=where,
                remedy="rename it where the model is made, and export the model again",
            )


def _names(model: ModelProto) -> Iterator[str | bytes]:
    for opset in model.opset_import:
        yield opset.domain
    for item in model.metadata_props:
        yield item.key
        yield item.value
    yield from _names_in_graph(model.graph)
    for function in model.functions:
        yield function.name
        yield function.domain
        yield from (*function.input, *function.output, *function.attribute)
        yield from (opset.domain for opset in function.opset_import)
        yield from _names_in_nodes(function.node)
        yield from _names_in_values(function.value_info)


def _names_in_graph(graph: GraphProto) -> Iterator[str | bytes]:
    yield graph.name
    for values in (graph.input, graph.output, graph.value_info):
        yield from _names_in_values(values)
    for tensor in graph.initializer:
        yield tensor.name
    for sparse in graph.sparse_initializer:
        yield sparse.values.name
    yield from _names_in_nodes(graph.node)


def _names_in_values(values: Iterable[ValueInfoProto]) -> Iterator[str | bytes]:
    for value in values:
        yield value.name
        for dim in value.type.tensor_type.shape.dim:
            yield dim.dim_param


def _names_in_nodes(nodes: Iterable[NodeProto]) -> Iterator[str | bytes]:
    for node in nodes:
        yield node.name
        yield node.op_type
        yield node.domain
        yield from node.input
        yield from node.output
        for attribute in node.attribute:
            yield attribute.name
            yield attribute.ref_attr_name
            if attribute.type == AttributeProto.GRAPH:
                yield from _names_in_graph(attribute.g)
            elif attribute.type == AttributeProto.GRAPHS:
                for graph in attribute.graphs:
                    yield from _names_in_graph(graph)
