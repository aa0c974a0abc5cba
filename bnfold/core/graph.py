"""The narrow waist: the little that folding needs to know about a model, the same for every format.

A front end translates its model into a ``GraphView``; rules read it; nobody changes it. What a front end does not
recognise is OPAQUE, and OPAQUE is left alone.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum, auto
from itertools import accumulate
from typing import TYPE_CHECKING, Any, NamedTuple

from numpy.typing import NDArray

from bnfold.core.reason import Reason
from bnfold.core.steps import LayerStep, composed
from bnfold.core.sums import is_its_addend, thinned
from bnfold.core.traits import Traits

if TYPE_CHECKING:
    from bnfold.core.verdict import Change

Dimension = int | str | None
"""A size, the symbol of an unknown one, or unknown."""
Shape = tuple[Dimension, ...]


class OpKind(Enum):
    """What an operator is to folding."""

    CONV = auto()
    CONV_TRANSPOSE = auto()
    LINEAR = auto()
    """A matrix product with one constant side (Gemm, MatMul with its Add, nn.Linear)."""
    BATCH_NORM = auto()
    SCALE_SHIFT = auto()
    """Mul, Add, Sub or Div by a per-channel or scalar constant."""
    LAYOUT = auto()
    """Moves elements and changes none: reshape, flatten, transpose, squeeze, identity, inference dropout."""
    POOL = auto()
    PAD = auto()
    SLICE = auto()
    CONCAT = auto()
    ADD = auto()
    WEIGHTED_SUM = auto()
    """A sum with weights: Sub, Neg, Mean of several values. Apart from ADD, so that no rule overlooks a weight."""
    SHAPE = auto()
    """Reads only the shape of its input."""
    OPAQUE = auto()


LAYERS = frozenset({OpKind.CONV, OpKind.CONV_TRANSPOSE, OpKind.LINEAR})
SUM_KINDS = frozenset({OpKind.ADD, OpKind.WEIGHTED_SUM})


class Sums(Enum):
    """What a front end can do to a sum whose addends stand for the same value."""

    FIXED = auto()
    """Nothing: its addends stay."""
    DROP_BATCH_NORMS = auto()
    """A batch norm can stop to add anything, once a layer beside it does its work."""
    JOIN_LAYERS = auto()
    """Any addend can: layers beside one another become one."""


@dataclass(frozen=True)
class Lock:
    """A front end's word that something may not be rewritten, and why."""

    reason: Reason
    detail: str


@dataclass(frozen=True)
class Constant:
    """A tensor whose values are known: its name in the model, its stored dtype, its shape, and a loader.

    ``load`` gives exactly the stored values in a NumPy float dtype (bfloat16 widened to float32). It is lazy: a plan
    over a large model reads only what its rules ask for, and nobody keeps it.
    """

    tensor: str
    dtype: str
    shape: tuple[int, ...]
    load: Callable[[], NDArray[Any]]


@dataclass(frozen=True)
class Value:
    """An edge. ``constant`` is None where the values are unknown; ``lock``: why it may not be read or rewritten."""

    id: str
    constant: Constant | None = None
    lock: Lock | None = None


@dataclass(frozen=True)
class Node:
    """An operator. ``index`` is its identity (names may be empty or repeated); ``label`` is for people.

    Inputs by kind, as value ids with None for an absent one: layers (data, weight, bias), batch norms
    (data, γ, β, mean, variance), all others as the operator has them.
    """

    index: int
    kind: OpKind
    op: str
    label: str
    inputs: tuple[str | None, ...]
    outputs: tuple[str, ...]
    traits: Traits = None
    lock: Lock | None = None
    stays: str = ""
    """Why a batch norm that folds cannot be taken out and is made to change nothing; empty where it can."""

    @property
    def data(self) -> str:
        """The value that a layer or a batch norm works on; ValueError for a node without one."""
        if not self.inputs or self.inputs[0] is None:
            raise ValueError(f"{self.op} {self.label!r} has no data input")
        return self.inputs[0]


class Use(NamedTuple):
    """One input slot of one node that reads a value."""

    node: Node
    slot: int


@dataclass(frozen=True, eq=False)
class GraphView:
    """A model's operators in order, and what connects them. Read-only; ``after`` gives the view as folds leave it."""

    nodes: tuple[Node, ...]
    value_of: Callable[[str], Value | None]
    """What is known of a value by id; None where the model computes it."""
    outputs: frozenset[str]
    load_shapes: Callable[[], Mapping[str, Shape]]
    steps: Mapping[int, tuple[LayerStep, ...]] = field(default_factory=dict)
    """By node index: what earlier folds already do to a layer, in order."""
    sums: Sums = Sums.FIXED
    left: Mapping[int, frozenset[int]] = field(default_factory=dict)
    """By the index of a sum: the input slots whose addends are gone. A sum keeps the slots of the others."""
    normalised: frozenset[int] = frozenset()
    """The layers that swallowed a batch norm behind them."""

    _producers: dict[str, Node] = field(init=False, repr=False)
    _uses: dict[str, list[Use]] = field(init=False, repr=False)
    _starts: dict[tuple[int, int], tuple[int, ...] | None] = field(init=False, repr=False, default_factory=dict)

    def __post_init__(self) -> None:
        producers = {output: node for node in self.nodes for output in node.outputs}
        uses: defaultdict[str, list[Use]] = defaultdict(list)
        for node in self.nodes:
            for slot, value in enumerate(node.inputs):
                if value is not None and node.kind is not OpKind.SHAPE:
                    uses[value].append(Use(node, slot))
        object.__setattr__(self, "_producers", producers)
        object.__setattr__(self, "_uses", dict(uses))

    @property
    def batch_norms(self) -> tuple[Node, ...]:
        """Every batch norm, in graph order; a run of constants that amounts to one is one."""
        return tuple(node for node in self.nodes if node.kind is OpKind.BATCH_NORM)

    @property
    def affine_nodes(self) -> tuple[Node, ...]:
        """Every batch norm and every other run of constants, in graph order."""
        return tuple(node for node in self.nodes if node.kind in {OpKind.BATCH_NORM, OpKind.SCALE_SHIFT})

    def producer(self, value: str) -> Node | None:
        """The node that computes ``value``; None for inputs and constants."""
        return self._producers.get(value)

    def readers(self, value: str) -> Sequence[Use]:
        """The input slots that read ``value``, also those inside subgraphs; readers of its shape alone do not count."""
        return self._uses.get(value, ())

    def is_output(self, value: str) -> bool:
        """Whether the caller of the model receives ``value``."""
        return value in self.outputs

    def constant(self, value: str | None) -> Constant | None:
        """The constant behind ``value``, if it has one."""
        found = self.value_of(value) if value is not None else None
        return found.constant if found else None

    def lock(self, value: str | None) -> Lock | None:
        """Why ``value`` may not be read or rewritten, if so."""
        found = self.value_of(value) if value is not None else None
        return found.lock if found else None

    def shape(self, value: str) -> Shape | None:
        """The shape of ``value`` as far as known; None where not even the rank is."""
        return self.load_shapes().get(value)

    def starts(self, node: Node, axis: int) -> tuple[int, ...] | None:
        """Where each input of ``node`` begins if they are joined along ``axis``, and the end; None if that is unknown.

        Looked up once: of many batch norms before a concatenation each asks.
        """
        key = (node.index, axis)
        if key not in self._starts:
            shapes = [self.shape(value or "") for value in node.inputs]
            sizes = [shape[axis] if shape is not None and axis < len(shape) else None for shape in shapes]
            known = [size for size in sizes if isinstance(size, int)]
            self._starts[key] = tuple(accumulate(known, initial=0)) if len(known) == len(sizes) else None
        return self._starts[key]

    def after(self, changes: Sequence[Change]) -> GraphView:
        """The view once ``changes`` are made: what they remove gone, their layers with the steps they take on."""
        steps = dict(self.steps)
        stands_for: dict[str, str] = {}
        removed: set[int] = set()
        for change in changes:
            removed.update(node.index for node in change.removed)
            stands_for |= change.stands_for
            for edit in change.edits:
                steps[edit.node.index] = composed((*steps.get(edit.node.index, ()), *edit.steps))
        nodes_of = {node.index: node for node in self.nodes}
        left = dict(self.left)
        for thin in thinned(self, [leaving for change in changes for leaving in change.leaving]):
            left[thin.index] = frozenset(slot for slot, value in enumerate(thin.inputs) if value is None)
            nodes_of[thin.index] = thin
            if is_its_addend(thin):
                removed.add(thin.index)
                stands_for |= dict(zip(thin.outputs, filter(None, thin.inputs), strict=False))

        def resolve(value: str | None) -> str | None:
            while value in stands_for:
                value = stands_for[value]
            return value

        nodes = tuple(
            replace(node, inputs=tuple(map(resolve, node.inputs)))
            if not stands_for.keys().isdisjoint(node.inputs)
            else node
            for node in nodes_of.values()
            if node.index not in removed
        )
        outputs = frozenset(resolved for value in self.outputs if (resolved := resolve(value)) is not None)
        normalised = self.normalised.union(*(change.normalised for change in changes))
        return GraphView(nodes, self.value_of, outputs, self.load_shapes, steps, self.sums, left, normalised)
