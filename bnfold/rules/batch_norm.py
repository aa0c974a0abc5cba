"""The batch norm itself: is it a fixed affine map, and which one?"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bnfold.core.affine import Affine, from_statistics
from bnfold.core.graph import GraphView, Node
from bnfold.core.pointwise import RoundsOnPurposeError, run_affine, swallowed
from bnfold.core.reason import Miss, Reason
from bnfold.core.rounding import F64Array
from bnfold.core.traits import BatchNormTraits, ScaleShiftTraits
from bnfold.core.verdict import channel_list


def affine_of(view: GraphView, bn: Node) -> Affine:
    """The affine map of a batch norm.

    It is one when
      1. the batch norm uses running statistics, and has them;
      2. the front end knows nothing against it (hooks, a foreign axis, statistics outputs);
      3. its parameters are constants, one number a channel;
      4. every channel's scale and shift is a finite number.
    """
    traits = bn.traits
    if isinstance(traits, ScaleShiftTraits):
        if bn.lock:
            raise Miss(bn.lock.reason, bn, bn.lock.detail)
        try:
            affine = run_affine(view, bn)
        except RoundsOnPurposeError as cause:
            detail = "its large constants cancel, which rounds the value on purpose"
            raise Miss(Reason.NO_LINEAR_LAYER, bn, detail) from cause
        _require_finite(bn, affine, np.ones(affine.channels, bool))
        return swallowed(affine, view.steps.get(bn.index, ()))
    if not isinstance(traits, BatchNormTraits):
        raise TypeError(f"{bn.label!r} is no batch norm")
    if traits.training:
        raise Miss(Reason.TRAINING_MODE, bn, "it is in training mode")
    if bn.lock:
        raise Miss(bn.lock.reason, bn, bn.lock.detail)
    _, gamma_id, beta_id, mean_id, variance_id = bn.inputs
    if mean_id is None or variance_id is None:
        raise Miss(Reason.NO_RUNNING_STATS, bn, "it has no running mean or variance")
    mean = _parameter(view, bn, "mean", mean_id)
    variance = _parameter(view, bn, "variance", variance_id)
    gamma = _parameter(view, bn, "scale", gamma_id) if gamma_id is not None else np.ones_like(mean)
    beta = _parameter(view, bn, "shift", beta_id) if beta_id is not None else np.zeros_like(mean)
    lengths = {values.shape for values in (gamma, beta, mean, variance)}
    if len(lengths) > 1 or mean.ndim != 1:
        raise Miss(Reason.CHANNEL_MISMATCH, bn, f"its parameters have different shapes: {sorted(lengths)}")
    affine = from_statistics(gamma, beta, mean, variance, traits.epsilon)
    _require_finite(bn, affine, variance + traits.epsilon > 0)
    return swallowed(affine, view.steps.get(bn.index, ()))


def _parameter(view: GraphView, bn: Node, name: str, value: str) -> F64Array:
    """The values of one parameter, ``(C,)``."""
    constant = view.constant(value)
    if constant is not None:
        with np.errstate(invalid="ignore"):  # a NaN that signals is a NaN, which is refused below
            return constant.load().astype(np.float64)
    lock = view.lock(value)
    if lock is not None:
        raise Miss(lock.reason, bn, f"its {name}: {lock.detail}")
    producer = view.producer(value)
    origin = f"by {producer.op} {producer.label!r}" if producer else "by the model's caller"
    raise Miss(Reason.PARAMETERS_NOT_CONSTANT, bn, f"its {name} is computed {origin}")


def _require_finite(bn: Node, affine: Affine, is_sound: NDArray[np.bool_]) -> None:
    """Every channel must be sound (a positive σ²+ε) and have a finite scale and shift."""
    sound = is_sound & np.isfinite(affine.scale) & np.isfinite(affine.shift)
    broken = [int(channel) for channel in np.flatnonzero(~sound)]
    if broken:
        raise Miss(Reason.NON_FINITE_PARAMETERS, bn, f"{channel_list(broken)} of {len(sound)}")
