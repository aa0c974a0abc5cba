"""Index maps: where a channel's elements lie after a reshape, a transposition or a rearrangement of channels.

All of these only move elements, so that a per-channel affine on one side is an affine per element on the other; it is
per channel there too exactly if the elements of every channel got the same scale and shift. Equal sizes prove nothing.
Between two of them a scale may vary along several axes, and along one again after the second, as in a channel shuffle.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bnfold.core.affine import Affine
from bnfold.core.graph import Node, Shape
from bnfold.core.rounding import F64Array
from bnfold.core.traits import ChannelMap, Permute

Group = tuple[tuple[int, ...], tuple[int, ...]]
"""Axes of two shapes that hold the same elements in the same order."""


MOST_ELEMENTS = 1 << 26
"""Over so many a scale is spread to see where it goes, and no further: a small file could ask for any memory."""


@dataclass(frozen=True, eq=False)
class Spread:
    """A scale and a shift that vary along several axes: what an affine is halfway through a channel shuffle.

    ``values`` is ``(2, *sizes)``, scale and shift, with the sizes of ``axes``, which ascend.
    """

    values: F64Array
    axes: tuple[int, ...]
    by: Node
    """The node that spread it: the one in the way, if no other gathers it again."""

    @property
    def is_identity(self) -> bool:
        """Never: what changes nothing varies along no axis."""
        return False


Carried = list[tuple[str, Affine | Spread]]
"""Values, and what each must take."""


def permuted(carried: Affine | Spread, permute: Permute, node: Node, *, upward: bool) -> Affine | Spread | None:
    """``carried`` on the other side of a transposition, ``node``."""
    values, axes = _spread(carried)
    if axes[-1] >= len(permute.axes):
        return None
    there = [permute.axes[axis] if upward else permute.axes.index(axis) for axis in axes]
    order = np.argsort(there)
    return _gathered(values.transpose(0, *(order + 1)), [there[position] for position in order], carried, node)


def rearranged(affine: Affine, channels: ChannelMap, *, upward: bool) -> Affine | None:
    """``affine`` on the other side of a rearrangement of channels; None where one channel would need two values."""
    pairs = np.asarray(channels.pairs)
    here, there = (pairs[:, 1], pairs[:, 0]) if upward else (pairs[:, 0], pairs[:, 1])
    if affine.axis != 1 or affine.channels != here.max() + 1:
        return None
    scale, shift = np.empty(there.max() + 1), np.empty(there.max() + 1)
    scale[there], shift[there] = affine.scale[here], affine.shift[here]
    is_consistent = np.array_equal(scale[there], affine.scale[here]) and np.array_equal(
        shift[there], affine.shift[here]
    )
    return Affine(scale, shift) if is_consistent else None


def reshaped(carried: Affine | Spread, source: Shape, target: Shape, node: Node) -> Affine | Spread | None:
    """``carried`` on a value of shape ``source`` as it acts on the same elements in shape ``target``, across ``node``.

    None where the sizes that matter are unknown, or do not go together.
    """
    values, axes = _spread(carried)
    own_sizes = dict(zip(axes, values.shape[1:], strict=True))
    here: list[int] = []
    there: list[int] = []
    sizes_here: list[int] = []
    sizes_there: list[int] = []
    for source_axes, target_axes in matching_groups(source, target):
        if own_sizes.keys().isdisjoint(source_axes):
            continue
        is_one_axis = len(source_axes) == len(target_axes) == 1
        before: Shape = tuple(own_sizes.get(axis, source[axis]) for axis in source_axes)
        after = before if is_one_axis else tuple(target[axis] for axis in target_axes)
        known_before, known_after = _completed(before, after), _completed(after, before)
        if known_before is None or known_after is None or math.prod(known_before) != math.prod(known_after):
            return None
        here += source_axes
        there += target_axes
        sizes_here += known_before
        sizes_there += known_after
    if axes[-1] >= len(source) or not there or not 0 < math.prod(sizes_here) <= MOST_ELEMENTS:
        return None
    along = values.reshape(2, *(own_sizes.get(axis, 1) for axis in here))
    return _gathered(np.broadcast_to(along, (2, *sizes_here)).reshape(2, *sizes_there), there, carried, node)


def _spread(carried: Affine | Spread) -> tuple[F64Array, tuple[int, ...]]:
    """Scale and shift, ``(2, *sizes)``, and the axes of the sizes."""
    if isinstance(carried, Spread):
        return carried.values, carried.axes
    return np.stack([carried.scale, carried.shift]), (carried.axis,)


def _gathered(values: F64Array, axes: Sequence[int], before: Affine | Spread, node: Node) -> Affine | Spread:
    """The affine of the one axis that ``values`` vary along, of the first where they vary nowhere; else a Spread."""
    varying = [position for position in range(len(axes)) if _varies(values, position + 1)] or [0]
    kept = values[tuple(slice(None) if position in {-1, *varying} else 0 for position in range(-1, len(axes)))].copy()
    if len(varying) == 1:
        return Affine(kept[0], kept[1], axes[varying[0]])
    by = before.by if isinstance(before, Spread) else node
    return Spread(kept, tuple(axes[position] for position in varying), by)


def _varies(values: F64Array, axis: int) -> bool:
    """Whether scale or shift are not the same all along an axis."""
    return bool((values != values.take([0], axis)).any())


def matching_groups(source: Shape, target: Shape) -> list[Group]:
    """The finest groups of axes that a row-major reshape from ``source`` to ``target`` keeps apart."""
    left_sizes, right_sizes = _unified(source, target)
    start = 0
    while start < min(len(source), len(target)) and left_sizes[start] == right_sizes[start]:
        start += 1
    end = 0
    while end < min(len(source), len(target)) - start and left_sizes[-1 - end] == right_sizes[-1 - end]:
        end += 1
    groups: list[Group] = [((axis,), (axis,)) for axis in range(start)]
    groups += _middle(left_sizes, right_sizes, start, end)
    groups += [((len(source) - back,), (len(target) - back,)) for back in range(end, 0, -1)]
    return groups


def _middle(source: list[int | str], target: list[int | str], start: int, end: int) -> list[Group]:
    """Groups between the axes that match one to one: cut wherever the products of the sizes so far agree."""
    stops = len(source) - end, len(target) - end
    groups: list[Group] = []
    i, j = start, start
    while i < stops[0] or j < stops[1]:
        i0, j0 = i, j
        i, j = min(i + 1, stops[0]), min(j + 1, stops[1])
        while (left := _product(source[i0:i])) != (right := _product(target[j0:j])) or left is None:
            if i == stops[0] and j == stops[1]:
                break
            if j == stops[1] or (i < stops[0] and (left is None or right is None or left < right)):
                i += 1
            else:
                j += 1
        groups.append((tuple(range(i0, i)), tuple(range(j0, j))))
    return groups


def _unified(source: Shape, target: Shape) -> tuple[list[int | str], list[int | str]]:
    """Both shapes with a name for every unknown size; alone on its side and with equal rests, it is the same one."""
    unknown = [[axis for axis, size in enumerate(shape) if not isinstance(size, int)] for shape in (source, target)]
    rests = [math.prod(size for size in shape if isinstance(size, int)) for shape in (source, target)]
    left: list[int | str] = [f"source {axis}" if size is None else size for axis, size in enumerate(source)]
    right: list[int | str] = [f"target {axis}" if size is None else size for axis, size in enumerate(target)]
    if len(unknown[0]) == len(unknown[1]) == 1 and rests[0] == rests[1]:
        left[unknown[0][0]] = right[unknown[1][0]] = "the unknown one"
    return left, right


def _product(sizes: Sequence[int | str | None]) -> int | None:
    """The product of known sizes; None where one is unknown."""
    known = _known(sizes)
    return None if known is None else math.prod(known)


def _completed(sizes: Shape, others: Shape) -> list[int] | None:
    """Sizes of as many elements as ``others``, of which one may be unknown; None where more are."""
    unknown = [position for position, size in enumerate(sizes) if not isinstance(size, int)]
    rest = math.prod(size for size in sizes if isinstance(size, int))
    total = _product(others)
    if not unknown or len(unknown) > 1 or total is None or rest == 0:
        return _known(sizes)
    return [size if isinstance(size, int) else total // rest for size in sizes]


def _known(sizes: Sequence[int | str | None]) -> list[int] | None:
    known = [size for size in sizes if isinstance(size, int)]
    return known if len(known) == len(sizes) else None
