"""A state_dict without its architecture: the user says which batch norm follows which layer.

Nothing in the file tells. ``LAYER=BN``, or ``LAYER:KIND=BN`` where the shapes leave open what kind of layer it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Self

import torch

from bnfold.core.graph import Constant, GraphView, Lock, Node, OpKind, Shape, Value
from bnfold.core.kernel import layer_constants
from bnfold.core.reason import Reason
from bnfold.core.traits import BatchNormTraits
from bnfold.core.verdict import Edit, Plan
from bnfold.errors import InputError
from bnfold.formats.torch.entries import unfolded_in, without_optimiser
from bnfold.formats.torch.files import FORMATS, Checkpoint, read_checkpoint
from bnfold.formats.torch.pair_kinds import KINDS, STATISTICS, Pair, batch_norms_in, checked, traits_of
from bnfold.formats.torch.states import StoredState
from bnfold.formats.torch.structure import Structure
from bnfold.formats.torch.tensors import as_stored, folded_arrays
from bnfold.formats.torch.values import read

if TYPE_CHECKING:
    from bnfold.files.writing import Content

EPSILON = 1e-5
"""torch's default, which a state_dict does not tell."""


class PairedState:
    """A state_dict and the pairs that the user names, as a model."""

    module = None
    """Without an architecture it cannot run."""
    companions: tuple[PairedState, ...] = ()

    def __init__(self, checkpoint: Checkpoint, pairs: Sequence[Pair], epsilon: float | None) -> None:
        self.checkpoint = checkpoint
        self.pairs = pairs
        self.epsilon = EPSILON if epsilon is None else epsilon
        self.is_epsilon_given = epsilon is not None
        self.removed = 0
        self.original = checkpoint.states[checkpoint.key]
        self.state = self.original
        self.traits = {pair: traits_of(pair, self.original) for pair in checked(pairs, self.original)}

    @classmethod
    def load(cls, path: Path, pairs: Iterable[str], epsilon: float | None, key: str | None = None) -> Self:
        """Read the file at ``path``. UsageError where a pair is not in it, or does not fit."""
        return cls(read_checkpoint(path, key), [Pair.of(text) for text in pairs], epsilon)

    @property
    def format(self) -> str:
        """What kind of file it is."""
        return FORMATS[self.checkpoint.kind]

    @property
    def folded(self) -> dict[str, torch.Tensor]:
        """The tensors as they are now."""
        return dict(self.state.stored)

    @cached_property
    def view(self) -> GraphView:
        """Each pair by itself: a value, the layer, the batch norm, and an output."""
        nodes = [node for place, pair in enumerate(self.pairs) for node in self._nodes(place, pair)]
        shapes: dict[str, Shape] = {
            f"between {place}": (None,) * self.original.stored[f"{pair.layer}.weight"].dim()
            for place, pair in enumerate(self.pairs)
        }
        read_names = {
            name for node in nodes for name in node.inputs if name is not None and name in self.original.stored
        }
        values = {name: _value(name, self.original) for name in read_names}
        outputs = frozenset(node.outputs[0] for node in nodes if node.kind is OpKind.BATCH_NORM)
        return GraphView(tuple(nodes), values.get, outputs, lambda: shapes)

    def _nodes(self, place: int, pair: Pair) -> tuple[Node, Node]:
        kind, traits = self.traits[pair]
        layer = (f"into {place}", f"{pair.layer}.weight", self._name(f"{pair.layer}.bias"))
        bn = [self._name(f"{pair.bn}.{name}") for name in ("weight", "bias", *STATISTICS)]
        between, out = f"between {place}", f"out of {place}"
        return (
            Node(2 * place, KINDS[kind], kind, pair.layer, layer, (between,), traits),
            Node(
                2 * place + 1,
                OpKind.BATCH_NORM,
                "batch_norm",
                pair.bn,
                (between, *bn),
                (out,),
                BatchNormTraits(self.epsilon),
            ),
        )

    def _name(self, name: str) -> str | None:
        return name if name in self.original.stored else None

    @property
    def notes(self) -> tuple[str, ...]:
        """What is taken on the user's word."""
        notes = ["that each batch norm follows its layer, and nothing else reads between, is taken on your word"]
        if not self.is_epsilon_given:
            notes.append(f"ε is not in a state_dict: {self.epsilon:g}, torch's default, was taken; --eps says another")
        paired = {pair.bn for pair in self.pairs}
        if others := [path for path in batch_norms_in(self.original) if path not in paired]:
            notes.append(f"without a pair, and left alone: {', '.join(others)}")
        if dropped := without_optimiser(self.checkpoint.entries)[1]:
            notes.append(f"left out of the folded checkpoint, which they no longer fit: {', '.join(dropped)}")
        others = [key for key in self.checkpoint.states if key != self.checkpoint.key]
        if unfolded := (*others, *unfolded_in(self.checkpoint.entries, self.checkpoint.states)):
            notes.append(f"also holds tensors of these names, which are carried unfolded: {', '.join(unfolded)}")
        return tuple(notes)

    @property
    def node_count(self) -> int:
        """The layers and batch norms that were named, and are still there."""
        return 2 * len(self.pairs) - self.removed

    @property
    def external(self) -> tuple[Path, ...]:
        """The shards of an index."""
        return self.checkpoint.shards.files if self.checkpoint.shards else ()

    def describe(self, properties: dict[str, str]) -> None:
        """A checkpoint says of itself only how its structure changed."""

    def apply(self, plan: Plan) -> None:
        """Rewrite the layers' tensors, and leave those of the batch norms out."""
        view, old = self.view, self.original
        changed = {name: tensor for edit in plan.edits for name, tensor in _rewritten(view, edit, old).items()}
        gone = tuple(fold.bn.label for fold in plan.folds)
        stored: dict[str, torch.Tensor] = {}
        for name, tensor in old.stored.items():
            if name.rpartition(".")[0] in gone:
                continue
            stored[name] = changed.pop(name, tensor)
            bias = f"{name.removesuffix('weight')}bias"
            if name.endswith("weight") and bias not in old.stored and bias in changed:
                stored[bias] = changed.pop(bias)
        gained = tuple(name.rpartition(".")[0] for name in stored if name not in old.stored)
        versions = {path: version for path, version in old.versions.items() if path not in gone}
        structure = old.structure + Structure(gone, gained)
        self.state = replace(old, stored=stored, structure=structure, versions=versions)
        self.removed = len(gone)

    def files(self, target: Path) -> dict[Path, Content]:
        """The checkpoint with the folded state_dict."""
        if self.checkpoint.shards is not None and not self.removed:
            return self.checkpoint.shards.copies(target)
        return self.whole_checkpoint().files(target)

    def whole_checkpoint(self) -> Checkpoint:
        """The checkpoint with the folded state_dict, and without the optimiser's state."""
        entries, _ = without_optimiser(self.checkpoint.entries)
        return replace(self.checkpoint, entries=entries).holding({self.checkpoint.key: self.state})


def _rewritten(view: GraphView, edit: Edit, state: StoredState) -> dict[str, torch.Tensor]:
    """By name, a layer's new tensors."""
    weight, bias, _ = layer_constants(view, edit.node)
    new_weight, new_bias = folded_arrays(view, edit)
    old = state.stored[weight.tensor]
    found = {weight.tensor: as_stored(new_weight, old)}
    if new_bias is not None:
        name = bias.tensor if bias else f"{edit.node.label}.bias"
        found[name] = as_stored(new_bias, state.stored.get(name, old))
    return found


def _value(name: str, state: StoredState) -> Value:
    """A tensor of the file; one whose memory another name shares may be read but not rewritten."""
    tensor = state.stored[name]
    if tensor.layout is not torch.strided or tensor.is_meta or tensor.is_quantized:
        kind = "quantised" if tensor.is_quantized else "without data" if tensor.is_meta else "sparse"
        raise InputError(f"the tensor {name!r} is stored {kind}", remedy="save it dense, in a float type")
    if not tensor.is_floating_point():
        return Value(name)
    constant = Constant(name, str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape), partial(read, tensor))
    place = tensor.untyped_storage().data_ptr()
    sharing = [
        other
        for other, item in state.stored.items()
        if other != name
        and item.layout is torch.strided
        and not item.is_meta
        and item.untyped_storage().data_ptr() == place
    ]
    lock = Lock(Reason.WEIGHT_SHARED, f"it is also named {sharing[0]!r}") if sharing and place else None
    return Value(name, constant, lock)
