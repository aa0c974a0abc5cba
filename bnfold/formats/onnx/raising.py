"""Models older than opset 7 in its words, for shape inference alone, which hardly knows any shape before.

Only what has a bearing on shapes is put into new words (the changes are on the operator pages, onnx.ai/onnx/operators):
sums and products that name the axis along which they broadcast, a Reshape's and an Upsample's sizes, a Cast's type. The
result is no model that would compute the same.
"""

from __future__ import annotations

from collections.abc import Callable

from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper

from bnfold.formats.onnx.scopes import ONNX_DOMAINS, subgraphs

BROADCAST_ATTRIBUTE_UNTIL = 6
"""Up to this opset a sum or product broadcasts its second operand alone, where told to, from the axis that it names."""
RAISED = 7
UNKNOWN_DOMAIN = "bnfold.older"


def raise_for_inference(model: ModelProto) -> None:
    """Edit ``model``, a copy for inference, if it is that old."""
    standard = next((item for item in model.opset_import if item.domain in ONNX_DOMAINS), None)
    if standard is None or standard.version >= RAISED:
        return
    standard.version = RAISED
    model.opset_import.append(helper.make_opsetid(UNKNOWN_DOMAIN, 1))
    _raise_graph(model.graph)


def _raise_graph(graph: GraphProto) -> None:
    for position, node in reversed(list(enumerate(graph.node))):
        for inner in subgraphs(node):
            _raise_graph(inner)
        row = ROWS.get(node.op_type) if node.domain in ONNX_DOMAINS else None
        added = row(node) if row else None
        if added is not None:
            graph.node.insert(position, added)


def _arithmetic(node: NodeProto) -> None:
    """The result has the shape of the first operand, whatever the second one is."""
    if node.attribute:
        del node.attribute[:], node.input[1:]
        node.op_type = "Identity"


def _unknown(node: NodeProto) -> None:
    """What has another meaning at opset 7, and no part in this."""
    if node.attribute or node.op_type == "Tile":
        node.domain = UNKNOWN_DOMAIN


def _reshape(node: NodeProto) -> NodeProto | None:
    """Until opset 4 the sizes are an attribute."""
    sizes = next((item for item in node.attribute if item.name == "shape"), None)
    if sizes is None:
        return None
    name = f"sizes of {node.output[0]}"
    constant = helper.make_node(
        "Constant", [], [name], value=helper.make_tensor("", TensorProto.INT64, [len(sizes.ints)], sizes.ints)
    )
    del node.attribute[:], node.input[1:]
    node.input.append(name)
    return constant


def _upsample(node: NodeProto) -> None:
    """Until opset 6 height and width have an attribute each."""
    scales = {item.name: item.f for item in node.attribute}
    if "height_scale" in scales:
        del node.attribute[:]
        sizes = [1.0, 1.0, scales["height_scale"], scales["width_scale"]]
        node.attribute.append(helper.make_attribute("scales", sizes))


def _cast(node: NodeProto) -> None:
    """Until opset 5 the type is a text."""
    for attribute in node.attribute:
        if attribute.name == "to" and attribute.s:
            attribute.CopyFrom(helper.make_attribute("to", type_by_name(attribute.s)))


def type_by_name(name: bytes) -> int:
    """The data type that a text names; UNDEFINED where it names none."""
    known: dict[str, int] = dict(TensorProto.DataType.items())
    return known.get(name.decode(errors="replace").upper(), TensorProto.UNDEFINED)


def _concat(node: NodeProto) -> None:
    """Until opset 3 the axis may be absent, and is 1."""
    if not node.attribute:
        node.attribute.append(helper.make_attribute("axis", 1))


ROWS: dict[str, Callable[[NodeProto], NodeProto | None]] = {
    **dict.fromkeys(("Add", "Sub", "Mul", "Div", "Pow"), _arithmetic),
    **dict.fromkeys(("Equal", "Greater", "Less", "And", "Or", "Xor", "Tile"), _unknown),
    "Cast": _cast,
    "Concat": _concat,
    "Reshape": _reshape,
    "Upsample": _upsample,
}
