from __future__ import annotations

import pytest

from bnfold.core.depth import depths

GRAPHS = {
    "a chain": ({1: [0], 2: [1], 3: [2]}, [1, 3], {1: 0, 3: 1}),
    "branches that meet": ({1: [0], 2: [0], 3: [1, 2]}, [1, 2, 3], {1: 0, 2: 0, 3: 1}),
    "the longest way counts": ({1: [0], 2: [1], 3: [0, 2]}, [1, 2, 3], {1: 0, 2: 1, 3: 2}),
    "declared backwards": ({0: [1], 1: [2], 2: []}, [0, 2], {0: 1, 2: 0}),
    "what is not counted adds nothing": ({1: [0], 2: [1], 3: [2]}, [3], {3: 0}),
    "none": ({1: [0]}, [], {}),
}


@pytest.mark.parametrize(("reads", "counted", "expected"), GRAPHS.values(), ids=GRAPHS)
def test_depth(reads: dict[int, list[int]], counted: list[int], expected: dict[int, int]) -> None:
    assert depths(reads, counted) == expected


def test_a_very_deep_graph_does_not_exhaust_the_stack() -> None:
    reads = {node: [node - 1] for node in range(1, 50_000)}
    assert depths(reads, [0, 49_999]) == {0: 0, 49_999: 1}


def test_ways_that_part_and_meet_often_do_not_take_forever() -> None:
    reads = {node: [node - 1, node - 2] for node in range(2, 5_000)}
    assert depths(reads, range(5_000))[4_999] == 4_998


def test_a_circle_ends() -> None:
    assert set(depths({0: [1], 1: [0]}, [0, 1])) == {0, 1}
