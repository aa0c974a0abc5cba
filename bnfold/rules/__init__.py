"""When folding is legal: one rule, one file. A rule reads a view, returns a Fold or raises a Miss, and changes nothing.

A new rule is a new file and an entry in ``STAGES``. The planner tries a stage's rules in order, and a later stage only
once the earlier ones find nothing more. A batch norm that stays does so for the nearest miss of ``NEIGHBOURS`` and
``BESIDE``.
"""

from __future__ import annotations

from collections.abc import Callable

from bnfold.core.affine import Affine
from bnfold.core.graph import GraphView, Node
from bnfold.core.verdict import Fold
from bnfold.rules.absorb_above import absorb_above
from bnfold.rules.absorb_below import absorb_below
from bnfold.rules.identity import identity
from bnfold.rules.merge import merge
from bnfold.rules.parallel_layers import parallel_layers

Rule = Callable[[GraphView, Node, Affine], Fold]

NEIGHBOURS: tuple[Rule, ...] = (absorb_above, absorb_below)
BESIDE: tuple[Rule, ...] = (parallel_layers,)
STAGES: tuple[tuple[Rule, ...], ...] = ((identity,), NEIGHBOURS, BESIDE, (merge,))
