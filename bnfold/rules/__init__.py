"""When folding is legal: one rule, one file. A rule reads a view, returns a Fold or raises a Miss, and changes nothing.

A new rule is a new file and an entry in ``RULES``; ``planner`` tries them in this order.
"""

from __future__ import annotations

from collections.abc import Callable

from bnfold.core.affine import Affine
from bnfold.core.graph import GraphView, Node
from bnfold.core.verdict import Fold
from bnfold.rules.absorb_above import absorb_above

Rule = Callable[[GraphView, Node, Affine], Fold]

RULES: tuple[Rule, ...] = (absorb_above,)
