"""The pairs of layers and batch norms that a user names: what kinds of layers the shapes allow, and which may fit."""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Self

from bnfold.core.graph import OpKind
from bnfold.core.traits import LayerTraits
from bnfold.errors import UsageError
from bnfold.formats.torch.files import read_checkpoint
from bnfold.formats.torch.states import StoredState
from bnfold.records import PairCandidate

LINEAR, LINEAR_TRANSPOSED, CONV, CONV_TRANSPOSED = "linear", "linear-transpose", "conv", "conv-transpose"
KINDS = {
    LINEAR: OpKind.LINEAR,
    LINEAR_TRANSPOSED: OpKind.LINEAR,
    CONV: OpKind.CONV,
    CONV_TRANSPOSED: OpKind.CONV_TRANSPOSE,
}
"""The kinds of layers that a pair can name."""
CANDIDATES = 5
"""As many layers as are listed for a batch norm."""
_PAIR = re.compile(rf"(?P<layer>[^:=]+)(?::(?P<kind>{'|'.join(KINDS)}))?=(?P<bn>[^:=]+)")
STATISTICS = ("running_mean", "running_var")
_MATRIX = 2


@dataclass(frozen=True)
class Pair:
    """A layer, what kind it is if that was said, and the batch norm that follows it and nothing else."""

    layer: str
    bn: str
    kind: str = ""

    @classmethod
    def of(cls, text: str) -> Self:
        """Read ``LAYER=BN`` or ``LAYER:KIND=BN``. UsageError for anything else."""
        match = _PAIR.fullmatch(text)
        if match is None:
            raise UsageError(
                f"--pair {text!r} is no pair",
                remedy=f"write LAYER=BN or LAYER:KIND=BN, where KIND is {', '.join(KINDS)}",
            )
        return cls(match["layer"], match["bn"], match["kind"] or "")


def candidates_in(path: Path, key: str | None = None) -> list[PairCandidate]:
    """For each batch norm, layers with as many outputs, the nearest in the file first. Names and shapes lie."""
    checkpoint = read_checkpoint(path, key)
    state = checkpoint.states[checkpoint.key]
    return [candidate for bn in batch_norms_in(state) for candidate in _candidates(bn, state)]


def _candidates(bn: str, state: StoredState) -> Iterator[PairCandidate]:
    names = list(state.stored)
    own = names.index(f"{bn}.running_mean")
    channels = state.stored[f"{bn}.running_mean"].numel()
    weights = [place for place, name in enumerate(names) if name.endswith(".weight")]
    fitting = (
        (names[place], _kinds(tuple(state.stored[names[place]].shape), channels))
        for place in sorted(weights, key=lambda place: (abs(place - own), place > own))
    )
    for name, kinds in islice((found for found in fitting if found[1]), CANDIDATES):
        kind = f":{kinds[0]}" if len(kinds) > 1 else ""
        weight = tuple(state.stored[name].shape)
        yield PairCandidate(f"{name.removesuffix('.weight')}{kind}={bn}", weight, channels, tuple(kinds))


def batch_norms_in(state: StoredState) -> list[str]:
    """The paths that have running statistics."""
    return [
        path
        for name in state.stored
        for path, _, last in (name.rpartition("."),)
        if last == STATISTICS[0] and f"{path}.{STATISTICS[1]}" in state.stored
    ]


def checked(pairs: Sequence[Pair], state: StoredState) -> Sequence[Pair]:
    """UsageError where a pair is not in the file, or one name is in two pairs."""
    names = set(state.stored)
    for pair in pairs:
        for name in (f"{pair.layer}.weight", *(f"{pair.bn}.{last}" for last in STATISTICS)):
            if name not in names:
                near = difflib.get_close_matches(name, sorted(names), n=1)
                remedy = f"did you mean {near[0].rpartition('.')[0]!r}?" if near else "--pair auto lists candidates"
                raise UsageError(f"--pair {pair.layer}={pair.bn}: the file has no {name!r}", remedy=remedy)
    counted = Counter(name for pair in pairs for name in (pair.layer, pair.bn))
    if twice := [name for name, count in counted.items() if count > 1]:
        raise UsageError(f"{twice[0]!r} is in two pairs", remedy="a batch norm follows one layer, and a layer has one")
    return pairs


def traits_of(pair: Pair, state: StoredState) -> tuple[str, LayerTraits]:
    """The kind of a layer, said or told by the shapes, and where its channels are. UsageError where that is open."""
    stored = state.stored
    shape, channels = tuple(stored[f"{pair.layer}.weight"].shape), stored[f"{pair.bn}.running_mean"].numel()
    fitting = _kinds(shape, channels)
    shown = f"{pair.layer} has weights of {'×'.join(map(str, shape))}, {pair.bn} has {channels} channels"
    if not fitting or (pair.kind and pair.kind not in fitting):
        raise UsageError(f"{shown}: these do not fit", remedy="--pair auto lists what fits by its shape")
    if len(fitting) > 1 and not pair.kind:
        ways = " or ".join(f"--pair {pair.layer}:{kind}={pair.bn}" for kind in fitting)
        raise UsageError(f"{shown}: the shapes leave open which axis the outputs are on", remedy=f"say it: {ways}")
    kind = pair.kind or fitting[0]
    bias = stored.get(f"{pair.layer}.bias")
    if bias is not None and tuple(bias.shape) != (channels,):
        raise UsageError(f"{shown}, but its bias is {tuple(bias.shape)}", remedy="look at the names again")
    if kind == CONV_TRANSPOSED:
        return kind, LayerTraits(groups=channels // shape[1], inputs_first=True)
    axis = 1 if kind == CONV else -1
    return kind, LayerTraits(channel_axis=axis, input_axis=axis, inputs_first=kind == LINEAR_TRANSPOSED)


def _kinds(shape: tuple[int, ...], channels: int) -> list[str]:
    """The kinds of layers with weights of this shape and so many outputs, as far as they would fold differently.

    A matrix is (outputs, inputs) in nn.Linear, and the other way round in some layers of other libraries: a square one
    could be either. A convolution's weight is (O, I/g, …), a transposed one's (I, O/g, …), with any number of groups g.
    """
    if len(shape) < _MATRIX:
        return []
    if len(shape) == _MATRIX:
        ways = ((LINEAR, shape[0]), (LINEAR_TRANSPOSED, shape[1]))
        return [kind for kind, outputs in ways if outputs == channels]
    found = [CONV] if shape[0] == channels else []
    groups = channels // shape[1] if shape[1] and channels % shape[1] == 0 else 0
    depthwise = shape[1] == 1 and shape[0] == channels
    if groups and shape[0] % groups == 0 and not depthwise:
        found.append(CONV_TRANSPOSED)
    return found
