"""External data: tensors in files beside the model. A model may only name files below its own folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from onnx import GraphProto, ModelProto, TensorProto

from bnfold.errors import InputError, UnsafeError
from bnfold.files.containment import contained
from bnfold.formats.onnx.references import Reference, embed, external_entries, is_reference, state_of
from bnfold.formats.onnx.scopes import subgraphs


def find_external_data(model: ModelProto, path: Path) -> tuple[Path, ...]:
    """Let the external tensors of ``model``, which lies at ``path``, refer to their bytes; small ones take them in.

    Returns the files that they lie in, in order of first use. Raises UnsafeError for a location outside the model's
    folder, InputError for a missing or too short file.
    """
    files: dict[Path, None] = {}
    initializers, others = model.graph.initializer, list(_other_tensors(model))
    for tensor in (*initializers, *others):
        if tensor.data_location != TensorProto.EXTERNAL or is_reference(tensor):
            continue
        entries = external_entries(tensor)
        file = _file_of(path, entries.get("location", ""), tensor.name)
        reference = _reference(file, entries, tensor.name)
        reference.put_into(tensor)
        if not reference.fits(tensor):
            embed(tensor)
        files[path.parent / entries["location"]] = None
    for tensor in others:
        embed(tensor)
    return tuple(files)


def _file_of(model: Path, location: str, tensor: str) -> Path:
    """The file that ``location`` means; UnsafeError unless it lies below the model's folder, links resolved."""
    file = contained(model, location)
    if file is None:
        raise _escapes(location, tensor)
    return file


def _escapes(location: str, tensor: str) -> UnsafeError:
    return UnsafeError(
        "external data lies outside the model's folder",
        where=f"tensor {tensor!r}: location {location!r}",
        remedy="save the model again with its data in the same folder",
    )


def _reference(file: Path, entries: dict[str, str], tensor: str) -> Reference:
    """The place of one tensor, which without a length goes to the end of the file."""
    try:
        offset = int(entries.get("offset", 0))
        with file.open("rb") as stream:
            size, state = os.fstat(stream.fileno()).st_size, state_of(stream.fileno())
        length = int(entries.get("length", size - offset))
    except (OSError, ValueError) as error:
        raise InputError(f"external data cannot be read: {error}", where=f"tensor {tensor!r} in {file}") from error
    if not 0 <= offset <= offset + length <= size:
        raise InputError(
            f"external data is cut short: bytes {offset} to {offset + length} of a file of {size}",
            where=f"tensor {tensor!r} in {file}",
        )
    return Reference(file, offset, length, state)


def _other_tensors(model: ModelProto) -> Iterator[TensorProto]:
    """Every tensor stored in the model beside the main graph's initializers: in attributes, subgraphs and functions."""
    graphs: list[GraphProto] = []
    nodes = [*model.graph.node, *(node for function in model.functions for node in function.node)]
    yield from _sparse_tensors(model.graph)
    while graphs or nodes:
        if graphs:
            graph = graphs.pop()
            yield from graph.initializer
            yield from _sparse_tensors(graph)
            nodes += graph.node
            continue
        node = nodes.pop()
        graphs += subgraphs(node)
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors


def _sparse_tensors(graph: GraphProto) -> Iterator[TensorProto]:
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
