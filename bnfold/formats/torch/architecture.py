"""Folding without changing the architecture: every batch norm stays, with a scale of exactly 1.

What is folded loads anywhere, under the original names, and runs as before, no faster. A layer without a bias cannot
take a shift, so it takes the scale alone, and the batch norm behind it keeps the shift.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import nn

from bnfold.core.graph import Constant, GraphView, Lock, Node, OpKind, Sums, Value
from bnfold.core.reason import Reason
from bnfold.core.traits import BatchNormTraits, LayerTraits
from bnfold.core.verdict import Fold, Plan
from bnfold.formats.torch.capture import Capture
from bnfold.formats.torch.neutral import neutral_batch_norm
from bnfold.formats.torch.remains import Remains

SHIFT, MEAN = 2, 3
"""Where a batch norm's inputs hold β and μ."""


@dataclass(frozen=True, eq=False)
class Architecture:
    """A capture whose batch norms stay when they fold; ``apart`` are those that keep their shift, as they were."""

    captured: Capture
    apart: dict[int, Node]

    @classmethod
    def of(cls, captured: Capture, module: nn.Module) -> Architecture:
        """The first look at ``captured``, a run of ``module``: no layer gains a bias, and no batch norm goes."""
        tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
        remains = dict(captured.remains)
        nodes = []
        for node in captured.view.nodes:
            if isinstance(node.traits, LayerTraits):
                nodes.append(replace(node, traits=replace(node.traits, gains_bias=False)))
                continue
            if node.index in remains and remains[node.index].calls:
                neutral = _neutral(node, tensors, len(captured.view.load_shapes().get(node.data, ())))
                remains[node.index] = Remains(neutral=neutral)
                if not neutral:
                    why = "it cannot stay and change nothing: no values of its tensors are known with which it does"
                    nodes.append(replace(node, lock=node.lock or Lock(Reason.HOOKED, why)))
                    continue
            nodes.append(node)
        view = replace(captured.view, nodes=tuple(nodes), sums=Sums.FIXED)
        return cls(replace(captured, view=view, remains=remains), {})

    def with_shifts_apart(self, first: Plan) -> Architecture:
        """The second look: what did not fold whole may give its scale away and keep its shift."""
        view = self.captured.view
        touched = {edit.node.index for edit in first.edits}
        apart = {
            keep.bn.index: keep.bn
            for keep in first.keeps
            if keep.bn.index not in touched
            and self.captured.remains.get(keep.bn.index, Remains()).neutral
            and isinstance(keep.bn.traits, BatchNormTraits)
            and keep.bn.inputs[MEAN] is not None
        }
        zeros = {zero.id: zero for bn in apart.values() for zero in _zeros(view, bn)}

        def value_of(name: str) -> Value | None:
            return zeros.get(name) or view.value_of(name)

        nodes = tuple(
            part for node in view.nodes for part in (_parts(node, len(view.nodes)) if node.index in apart else [node])
        )
        return Architecture(replace(self.captured, view=replace(view, nodes=nodes, value_of=value_of)), apart)

    def after(self, plan: Plan) -> Capture:
        """What ``plan`` is carried out on: the batch norms that gave their scale away remain with their shift."""
        remains = dict(self.captured.remains)
        for fold in plan.folds:
            if fold.bn.index in self.apart:
                bn = self.apart[fold.bn.index]
                neutral = dict(remains[bn.index].neutral)
                neutral |= self._shifted(fold, bn, neutral)
                remains[bn.index] = Remains(neutral=neutral)
        return replace(self.captured, remains=remains)

    def _shifted(self, fold: Fold, bn: Node, neutral: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """β, or where there is none −μ, as the shift β − μ·s of the original."""
        view = self.captured.view
        beta, mean = view.constant(bn.inputs[SHIFT]), view.constant(bn.inputs[MEAN])
        shift = (beta.load().astype(np.float64) if beta else 0.0) - (
            mean.load().astype(np.float64) if mean else 0.0
        ) * fold.affine.scale
        name = str(bn.inputs[SHIFT] or bn.inputs[MEAN])
        values = torch.from_numpy(np.asarray(shift if bn.inputs[SHIFT] else -shift))
        return {name: values.to(neutral[name].dtype)}


def _neutral(node: Node, tensors: dict[str, torch.Tensor], rank: int) -> dict[str, torch.Tensor]:
    """Values of a batch norm's tensors that change nothing, by name; none where none are known."""
    names = node.inputs[1:]
    stored = [name for name in names if name is not None]
    if not isinstance(node.traits, BatchNormTraits) or any(name not in tensors for name in stored):
        return {}
    parameters = [None if name is None else tensors[name].detach() for name in names]
    variance = parameters[-1]
    if variance is None or len(set(stored)) < len(stored):
        return {}
    values = neutral_batch_norm(parameters, node.traits.epsilon, rank=rank, dtype=variance.dtype)
    return {} if values is None else dict(zip(stored, values, strict=True))


def _parts(bn: Node, count: int) -> Iterator[Node]:
    """A batch norm in two: what it scales by, and a shift that nothing crosses."""
    between = f"{bn.outputs[0]} before its shift"
    names = list(bn.inputs)
    for slot in (SHIFT, MEAN):
        if names[slot] is not None:
            names[slot] = _zero(names[slot])
    yield replace(bn, inputs=tuple(names), outputs=(between, *bn.outputs[1:]))
    yield Node(count + bn.index, OpKind.OPAQUE, "the shift", bn.label, (between,), bn.outputs[:1])


def _zeros(view: GraphView, bn: Node) -> Iterator[Value]:
    """Stand-ins for β and μ, which may not be rewritten."""
    for name in (bn.inputs[SHIFT], bn.inputs[MEAN]):
        constant = view.constant(name)
        if name is not None and constant is not None:
            zeros = Constant(_zero(name), constant.dtype, constant.shape, partial(np.zeros, constant.shape, np.float32))
            yield Value(_zero(name), zeros, Lock(Reason.WEIGHT_SHARED, "its batch norm keeps its shift"))


def _zero(name: str | None) -> str:
    return f"{name} as 0"
