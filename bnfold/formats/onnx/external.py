"""External data: tensors in files beside the model. A model may only name files below its own folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath

from onnx import GraphProto, ModelProto, TensorProto

from bnfold.errors import InputError, UnsafeError
from bnfold.formats.onnx.scopes import subgraphs


def read_external_data(model: ModelProto, path: Path) -> tuple[Path, ...]:
    """Read external tensors into ``model``, which lies at ``path``; the files that were read, in order of first use.

    UnsafeError for a location outside the model's folder, InputError for a missing or too short file.
    """
    files: dict[Path, None] = {}
    for tensor in _tensors(model):
        if tensor.data_location != TensorProto.EXTERNAL:
            continue
        entries = {item.key: item.value for item in tensor.external_data}
        file = contained(path, entries.get("location", ""), tensor.name)
        tensor.raw_data = _read(file, entries, tensor.name)
        tensor.data_location = TensorProto.DEFAULT
        del tensor.external_data[:]
        files[file] = None
    return tuple(files)


def contained(model: Path, location: str, tensor: str) -> Path:
    """The file that ``location`` means; UnsafeError unless it lies below the model's folder, links resolved.

    Where the model itself is a link, files beside its target count as well: in the Hugging Face cache model and data
    are both links into one folder.
    """
    foreign = PureWindowsPath(location)
    parts = (*PurePosixPath(location).parts, *foreign.parts)
    if not location or os.path.isabs(location) or foreign.drive or foreign.root or ".." in parts:  # noqa: PTH117 - of a string
        raise _escapes(location, tensor)
    file = Path(os.path.realpath(model.parent / location))
    homes = (Path(os.path.realpath(model.parent)), Path(os.path.realpath(model)).parent)
    if not any(file.is_relative_to(home) for home in homes):
        raise _escapes(location, tensor)
    return file


def _escapes(location: str, tensor: str) -> UnsafeError:
    return UnsafeError(
        "external data lies outside the model's folder",
        where=f"tensor {tensor!r}: location {location!r}",
        remedy="save the model again with its data in the same folder",
    )


def _read(file: Path, entries: dict[str, str], tensor: str) -> bytes:
    """The bytes of one tensor."""
    try:
        offset, length = int(entries.get("offset", 0)), int(entries.get("length", -1))
        with file.open("rb") as stream:
            stream.seek(offset)
            data = stream.read(length)
    except (OSError, ValueError) as error:
        raise InputError(f"external data cannot be read: {error}", where=f"tensor {tensor!r} in {file}") from error
    if 0 <= length != len(data):
        raise InputError(
            f"external data is cut short: {len(data)} of {length} bytes", where=f"tensor {tensor!r} in {file}"
        )
    return data


def _tensors(model: ModelProto) -> Iterator[TensorProto]:
    """Every tensor stored in the model: initializers and attributes, in all graphs and functions."""
    graphs = [model.graph]
    nodes = [node for function in model.functions for node in function.node]
    while graphs or nodes:
        if graphs:
            graph: GraphProto = graphs.pop()
            yield from graph.initializer
            for sparse in graph.sparse_initializer:
                yield from (sparse.values, sparse.indices)
            nodes += graph.node
            continue
        node = nodes.pop()
        graphs += subgraphs(node)
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
