"""Rule ``identity``: a batch norm that changes nothing goes without any neighbour."""

from __future__ import annotations

import numpy as np

from bnfold.core.affine import Affine
from bnfold.core.graph import GraphView, Node
from bnfold.core.reason import Miss, Reason
from bnfold.core.rounding import LARGEST, rounded
from bnfold.core.verdict import Fold


def identity(view: GraphView, bn: Node, affine: Affine) -> Fold:
    """Drop a batch norm whose scale rounds to 1 and whose shift rounds to 0 in the dtype of its parameters."""
    constant = next((found for value in bn.inputs[1:] if (found := view.constant(value))), None)
    dtype = constant.dtype if constant and constant.dtype in LARGEST else "float64"
    ones, zeros = rounded(np.ones(affine.channels), dtype), rounded(np.zeros(affine.channels), dtype)
    if not (np.array_equal(rounded(affine.scale, dtype), ones) and np.array_equal(rounded(affine.shift, dtype), zeros)):
        raise Miss(Reason.NO_LINEAR_LAYER, bn, "it scales or shifts")
    return Fold(bn, affine, "identity", ())
