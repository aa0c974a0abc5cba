"""ONNX operators that move elements and change none, in the words of the graph view: one function a row."""

from __future__ import annotations

from bnfold.core.graph import OpKind
from bnfold.core.layout import MOST_ELEMENTS
from bnfold.core.traits import ChannelMap, Permute, Reshape
from bnfold.formats.onnx.meaning import Meaning, Operator, Row, opaque
from bnfold.formats.onnx.operators import IS_TEST_UNTIL
from bnfold.formats.onnx.raising import type_by_name

DROPOUT_TRAINING_SLOT = 2


def identity(op: Operator) -> Meaning:
    """Identity."""
    return Meaning(OpKind.LAYOUT, op.inputs[:1])


def dropout(op: Operator) -> Meaning:
    """Dropout: the identity, unless told to train (is_test=0 up to opset 6, a training_mode input from 12 on)."""
    trains = False
    if op.opset <= IS_TEST_UNTIL:
        trains = not op.attributes.get("is_test", 0)
    elif op.has_input(DROPOUT_TRAINING_SLOT):
        training_mode = op.constant(DROPOUT_TRAINING_SLOT)
        trains = training_mode is None or bool(training_mode.load())
    return opaque(op, "it drops values at random") if trains else identity(op)


def reshape(op: Operator) -> Meaning:
    """Reshape, Flatten, Squeeze, Unsqueeze: row-major; what goes where follows from the two shapes."""
    return Meaning(OpKind.LAYOUT, op.inputs[:1], Reshape())


def transpose(op: Operator) -> Meaning:
    """Transpose; without perm it reverses the axes."""
    permutation = op.attributes.get("perm")
    known = op.shape()
    if permutation is None and known is not None:
        permutation = range(len(known))[::-1]
    if permutation is None:
        return opaque(op, "how many axes it reverses is unknown")
    if sorted(permutation) != list(range(len(permutation))):
        return opaque(op, "it leaves axes out")
    return Meaning(OpKind.LAYOUT, op.inputs[:1], Permute(tuple(permutation)))


def depth_to_space(op: Operator) -> Meaning:
    """DepthToSpace: input channel (b₁, b₂, c), or (c, b₁, b₂) in mode CRD, goes to output channel c."""
    channels = _channels(op)
    blocks = op.attributes.get("blocksize", 0) ** 2
    if not channels or not 0 < blocks <= MOST_ELEMENTS // channels:
        return opaque(op, "how many channels there are is unknown")
    outputs = channels // blocks
    if channels % blocks:
        return opaque(op, "its channels do not fill its blocks")
    column_first = op.attributes.get("mode", "DCR") == "CRD"
    pairs = tuple((i, i // blocks if column_first else i % outputs) for i in range(channels))
    return Meaning(OpKind.LAYOUT, op.inputs[:1], ChannelMap(pairs))


def space_to_depth(op: Operator) -> Meaning:
    """SpaceToDepth: input channel c goes to the output channels (b₁, b₂, c)."""
    channels = _channels(op)
    blocks = op.attributes.get("blocksize", 0) ** 2
    if not channels or not 0 < blocks <= MOST_ELEMENTS // channels:
        return opaque(op, "how many channels there are is unknown")
    pairs = tuple((o % channels, o) for o in range(channels * blocks))
    return Meaning(OpKind.LAYOUT, op.inputs[:1], ChannelMap(pairs))


def cast(op: Operator) -> Meaning:
    """Cast to the type that the value has already changes nothing; until opset 5 a text names the type."""
    known = op.type_of(op.inputs[0] or "")
    to = op.attributes.get("to")
    data_type = type_by_name(to.encode()) if isinstance(to, str) else to
    return identity(op) if known is not None and known.data_type == data_type else opaque(op, "it changes the type")


def cast_like(op: Operator) -> Meaning:
    """CastLike of a constant reads only the type of its other input."""
    return shape(op) if op.constant(0) else opaque(op)


def shape(op: Operator) -> Meaning:
    """Shape and Size read no element."""
    return Meaning(OpKind.SHAPE, op.inputs)


def _channels(op: Operator) -> int | None:
    """The size of axis 1, where it is known."""
    known = op.shape()
    size = known[1] if known is not None and len(known) > 1 else None
    return size if isinstance(size, int) and size <= MOST_ELEMENTS else None


ROWS: dict[str, Row] = {
    "Cast": cast,
    "CastLike": cast_like,
    "DepthToSpace": depth_to_space,
    "Dropout": dropout,
    "Flatten": reshape,
    "Identity": identity,
    "Reshape": reshape,
    "Shape": shape,
    "Size": shape,
    "SpaceToDepth": space_to_depth,
    "Squeeze": reshape,
    "Transpose": transpose,
    "Unsqueeze": reshape,
}
