"""How raw pixels become a network's inputs, and who says so: the options, the model's metadata, or the convention."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np

from bnfold.errors import InputError, UsageError
from bnfold.runtime.session import Array

METADATA_KEY = "bnfold.input"


@dataclass(frozen=True)
class Scaling:
    """Raw values become (x / scale − mean) / std. The default takes pixels to [0, 1]."""

    scale: float = 255.0
    mean: float = 0.0
    std: float = 1.0

    def apply(self, values: Array) -> Array:
        """``values`` scaled, in float64."""
        return (values.astype(np.float64) / self.scale - self.mean) / self.std


@dataclass(frozen=True)
class ScalingOptions:
    """What the user asks for with ``--scale``, ``--mean`` and ``--std``; None where nothing is asked."""

    scale: float | None = None
    mean: float | None = None
    std: float | None = None

    def given(self) -> dict[str, float]:
        """The options that were given. Raises UsageError where one makes no scaling."""
        values = {name: value for name, value in asdict(self).items() if value is not None}
        for name, value in values.items():
            if not _is_usable(name, value):
                raise UsageError(f"--{name} {value}: it must be a finite number" + _nonzero(name))
        return values


def pixel_scaling(options: ScalingOptions, metadata: str | None) -> Scaling:
    """The scaling of raw pixels: each number from the options, else the metadata, else the convention.

    Raises UsageError or InputError where the options or the metadata make no scaling.
    """
    given = options.given()
    stated = {} if metadata is None or len(given) == len(asdict(options)) else _from_metadata(metadata)
    return Scaling(**(stated | given))


def array_scaling(options: ScalingOptions) -> Scaling | None:
    """The scaling of a user's own array, which is in no unit that we could assume: None unless an option is given."""
    given = options.given()
    return Scaling(**({"scale": 1.0} | given)) if given else None


def _from_metadata(text: str) -> dict[str, float]:
    """What the model's metadata ``bnfold.input`` says; it may leave out what is conventional."""
    try:
        content: Mapping[str, float] = json.loads(text)
        values = {name: float(content[name]) for name in ("scale", "mean", "std") if name in content}
    except (ValueError, TypeError, RecursionError) as error:
        raise _unreadable(text) from error
    if not all(_is_usable(name, value) for name, value in values.items()):
        raise _unreadable(text)
    return values


def _unreadable(text: str) -> InputError:
    return InputError(
        f"the model's metadata {METADATA_KEY} makes no scaling: {text[:80]!r}",
        remedy='write it like {"scale": 255, "mean": 0, "std": 1}, or give --scale, --mean and --std',
    )


def _is_usable(name: str, value: float) -> bool:
    return math.isfinite(value) and (name == "mean" or value != 0)


def _nonzero(name: str) -> str:
    return "" if name == "mean" else " other than 0"
