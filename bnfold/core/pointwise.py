"""A batch norm that swallows affines: its new γ and β."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bnfold.core.graph import GraphView, Node
from bnfold.core.kernel import Step
from bnfold.core.rounding import rounded


def scale_and_shift(view: GraphView, bn: Node, steps: Iterable[Step]) -> tuple[NDArray[Any], NDArray[Any]]:
    """γ and β, ``(C,)``, of a batch norm once it has swallowed ``steps`` on its outputs: γ·s and β·s + t.

    Rounded once to the dtypes they are stored in (bfloat16 as uint16 bits).
    """
    gamma, beta = view.constant(bn.inputs[1]), view.constant(bn.inputs[2])
    if gamma is None or beta is None:
        raise ValueError(f"{bn.label!r} has no constant scale and shift")
    scale, shift = gamma.load().astype(np.float64), beta.load().astype(np.float64)
    for step in steps:
        scale, shift = scale * step.affine.scale, shift * step.affine.scale + step.affine.shift
    return rounded(scale, gamma.dtype), rounded(shift, beta.dtype)
