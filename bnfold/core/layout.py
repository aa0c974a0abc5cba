"""Index maps: where a channel's elements lie after a reshape, a transposition or a rearrangement of channels.

All of these only move elements, so that a per-channel affine on one side is an affine per element on the other; it is
per channel there too exactly if the elements of every channel got the same scale and shift. Equal sizes prove nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from bnfold.core.affine import Affine
from bnfold.core.graph import Shape
from bnfold.core.traits import ChannelMap, Permute

Group = tuple[tuple[int, ...], tuple[int, ...]]
"""Axes of two shapes that hold the same elements in the same order."""


def permuted(affine: Affine, permute: Permute, *, upward: bool) -> Affine:
    """``affine`` on the other side of a transposition."""
    axis = permute.axes[affine.axis] if upward else permute.axes.index(affine.axis)
    return Affine(affine.scale, affine.shift, axis)


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


def reshaped(affine: Affine, source: Shape, target: Shape) -> Affine | None:
    """``affine`` on a value of shape ``source`` as it acts on the same elements in shape ``target``.

    None where that is no affine per channel of one axis, or where the sizes that matter are unknown.
    """
    for source_axes, target_axes in matching_groups(source, target):
        if affine.axis in source_axes:
            sizes = [source[axis] for axis in source_axes], [target[axis] for axis in target_axes]
            return _regrouped(affine, source_axes, target_axes, *map(_known, sizes))
    return None


def _regrouped(
    affine: Affine,
    source_axes: Sequence[int],
    target_axes: Sequence[int],
    source_sizes: list[int] | None,
    target_sizes: list[int] | None,
) -> Affine | None:
    """Spread the affine over the elements of its group, and look for the one target axis that it varies along."""
    if len(source_axes) == len(target_axes) == 1:
        return Affine(affine.scale, affine.shift, target_axes[0])
    if source_sizes is None or target_sizes is None or affine.channels != source_sizes[source_axes.index(affine.axis)]:
        return None
    along = [1] * len(source_sizes)
    along[source_axes.index(affine.axis)] = affine.channels
    spread = [
        np.broadcast_to(values.reshape(along), source_sizes).reshape(target_sizes)
        for values in (affine.scale, affine.shift)
    ]
    for position, axis in enumerate(target_axes):
        lines = [np.moveaxis(values, position, 0).reshape(target_sizes[position], -1) for values in spread]
        if all((line == line[:, :1]).all() for line in lines):
            return Affine(lines[0][:, 0].copy(), lines[1][:, 0].copy(), axis)
    return None


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


def _product(sizes: Sequence[int | str]) -> int | None:
    """The product of known sizes; None where one is unknown."""
    known = _known(sizes)
    return None if known is None else math.prod(known)


def _known(sizes: Sequence[int | str | None]) -> list[int] | None:
    known = [size for size in sizes if isinstance(size, int)]
    return known if len(known) == len(sizes) else None
