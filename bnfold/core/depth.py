"""How deep nodes lie below one another: what lies equally deep does not depend on each other."""

from __future__ import annotations

from collections.abc import Collection, Mapping


def depths(reads: Mapping[int, Collection[int]], counted: Collection[int]) -> dict[int, int]:
    """For each node of ``counted`` the most others of them on any way up from it; 0 where there are none.

    ``reads`` are, for every node of a graph, those whose values it reads, in any order of declaration.
    """
    wanted = frozenset(counted)
    below: dict[int, int] = {}
    """By node how many of ``counted`` lie on the longest way to its outputs, itself included."""
    entered: set[int] = set()
    pending = list(counted)
    while pending:
        node = pending[-1]
        sources = reads.get(node, ())
        if node not in entered:
            entered.add(node)
            pending += [source for source in sources if source not in below]
            continue
        pending.pop()
        above = max((below.get(source, 0) for source in sources), default=0)  # a circle, which is no graph, ends here
        below[node] = above + (node in wanted)
    return {node: below[node] - 1 for node in counted}
