"""Layers beside one another in a sum are one layer: what each addend adds to the kernel of the one that takes it in.

W∗x + b + V∗x + c = (W + V)∗x + (b + c), where both see the same elements of x at every position: V, padded with zeros
to the size of W. A batch norm alone is such a V with one tap, diagonal over the channels; so is a mean over a window.
"""

from __future__ import annotations

import math
from functools import partial

import numpy as np

from bnfold.core.affine import Affine
from bnfold.core.graph import GraphView, Node
from bnfold.core.kernel import Kernel, kernel_of
from bnfold.core.steps import Join
from bnfold.core.traits import LayerTraits, Window


def place_within(inner: Window, outer: Window) -> tuple[int, ...] | None:
    """Where the kernel of ``inner`` lies in that of ``outer``, per spatial axis; None where it does not.

    Tap j of the inner kernel reads x at n·stride − before + j·dilation, for output position n; it is tap p + j of the
    outer one where that reads the same. Both must also give as many positions, whatever the size of x.
    """
    if len(inner.kernel) != len(outer.kernel) or inner.strides != outer.strides:
        return None
    place = []
    for axis, (small, large) in enumerate(zip(inner.kernel, outer.kernel, strict=True)):
        dilation = outer.dilations[axis]
        if small > large or (small > 1 and inner.dilations[axis] != dilation):
            return None
        start = outer.before[axis] - inner.before[axis]
        end = outer.after[axis] - inner.after[axis]
        if (
            start % dilation
            or not 0 <= start <= dilation * (large - small)
            or start + end != dilation * (large - small)
        ):
            return None
        place.append(start // dilation)
    return tuple(place)


def one_tap(outer: Window) -> Window:
    """The window of what reads each element by itself, in as many spatial axes as ``outer``."""
    axes = len(outer.kernel)
    return Window((1,) * axes, (1,) * axes, (1,) * axes, (0,) * axes, (0,) * axes)


def layer_beside(view: GraphView, sibling: Node, place: tuple[int, ...]) -> Join:
    """What another layer adds, as earlier folds leave it."""
    steps = view.steps.get(sibling.index, ())
    return Join(lambda: kernel_of(view, sibling).after(steps), place)


def mean_beside(affine: Affine, taps: tuple[int, ...], groups: int, place: tuple[int, ...]) -> Join:
    """What ``affine`` of the mean over a window of ``taps`` adds to a layer of so many groups; one tap: of x itself."""
    largest = [float(np.abs(values).max(initial=0)) for values in (affine.scale, affine.shift)]
    return Join(partial(_mean_kernel, affine, taps, groups), place, (largest[0] / math.prod(taps), largest[1]))


def _mean_kernel(affine: Affine, taps: tuple[int, ...], groups: int) -> Kernel:
    """Diagonal over the channels of a group, ``(g, o, o, k)``, every tap alike."""
    outputs, positions = affine.channels // groups, math.prod(taps)
    diagonal = np.eye(outputs) * (affine.scale / positions).reshape(groups, outputs, 1)
    weight = np.repeat(diagonal.reshape(affine.channels, outputs, 1), positions, axis=2)
    bias = affine.shift if affine.shift.any() else None
    return Kernel.of(weight.reshape(affine.channels, outputs, *taps), bias, LayerTraits(groups=groups))
