"""The numbers: how far one model's outputs are from another's, gathered batch by batch in constant memory."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from bnfold.check.tolerance import Tolerances
from bnfold.records import Comparison, OutputDifference
from bnfold.runtime.session import Array

_TEXT = "OSU"
_EXACT = "iub" + _TEXT  # kinds of NumPy types that do not round


class Comparer:
    """Two models' outputs, batch after batch; ``result`` is the verdict on what was added so far.

    Outputs that cannot be compared (missing in one model, of another shape or type) become statements, and the
    verdict is that the models differ.
    """

    def __init__(self, runtime: str) -> None:
        self._runtime = runtime
        self._tallies: dict[str, _Tally] = {}
        self._differences: dict[str, None] = {}

    def add(self, original: Mapping[str, Array], folded: Mapping[str, Array], *, rows: int) -> None:
        """One batch's outputs; those whose dimension 0 is ``rows`` have one row a sample."""
        for name in original.keys() ^ folded.keys():
            which = "folded" if name in original else "original"
            self._differences[f"the {which} model has no output {name!r}"] = None
        for name in (name for name in original if name in folded):
            a, b = original[name], folded[name]
            statement = _mismatch(name, a, b)
            if statement:
                self._differences[statement] = None
                continue
            self._tallies.setdefault(name, _Tally(name, a.dtype)).add(a, b, rows=rows)

    def add_moved(self, original: Mapping[str, Array], moved: Mapping[str, Array]) -> None:
        """The original's outputs, and what they are when its inputs move by one ulp."""
        for name in (name for name in original if name in self._tallies):
            if original[name].shape == moved[name].shape:
                self._tallies[name].add_moved(original[name], moved[name])

    def rounding_errors(self) -> dict[str, float]:
        """By output: how far one ulp in the inputs moved it, relative to max|a|."""
        return {name: tally.rounding_error for name, tally in self._tallies.items()}

    def result(self, tolerances: Tolerances, rounding_errors: Mapping[str, float]) -> Comparison:
        """The verdict. Without a single compared output it is that the models differ."""
        outputs = tuple(
            tally.difference(tolerances, rounding_errors.get(name, 0.0)) for name, tally in self._tallies.items()
        )
        passed = bool(outputs) and not self._differences and all(output.passed for output in outputs)
        return Comparison(self._runtime, outputs, passed, tuple(self._differences))

    def doubts(self, comparison: Comparison) -> list[str]:
        """Why agreement proves little: outputs that hardly move with the input, or hold no number to compare."""
        return [
            doubt
            for output in comparison.outputs
            for doubt in self._tallies[output.name].doubts(output.tolerance * output.max_abs_value)
        ]


def _mismatch(name: str, a: Array, b: Array) -> str | None:
    if a.dtype != b.dtype:
        return f"output {name!r} is {a.dtype} in the original and {b.dtype} in the folded model"
    if a.shape != b.shape:
        return f"output {name!r} has shape {a.shape} in the original and {b.shape} in the folded model"
    return None


@dataclass
class _Tally:
    """What has been seen of one output, in float64. NaN and Inf are judged by their places, numbers by distance."""

    name: str
    dtype: np.dtype[Any]
    compared: int = 0
    sum_abs_error: float = 0.0
    max_abs_error: float = 0.0
    max_abs_value: float = 0.0
    max_abs_move: float = 0.0
    nan_count: int = 0
    inf_count: int = 0
    same_nan: bool = True
    same_inf: bool = True
    equal: bool = True
    rows: int = 0
    first_row: Array | None = None
    spread: float = 0.0

    @property
    def rounding_error(self) -> float:
        return self.max_abs_move / self.max_abs_value if self.max_abs_value else 0.0

    def add(self, original: Array, folded: Array, *, rows: int) -> None:
        self.equal &= bool(np.all(original == folded))
        if original.dtype.kind in _TEXT:
            self.compared += original.size
            self.spread = math.inf
            return
        a, b = _float64(original), _float64(folded)
        self._add_places(a, b)
        self._add_rows(a if len(original.shape) and len(original) == rows else a[None])
        error = _distances(a, b)
        self.compared += error.size
        self.sum_abs_error += float(error.sum())
        self.max_abs_error = max(self.max_abs_error, _largest(error))
        self.max_abs_value = max(self.max_abs_value, _largest(np.abs(a[np.isfinite(a)])))

    def add_moved(self, original: Array, moved: Array) -> None:
        if original.dtype.kind not in _TEXT:
            move = _largest(_distances(_float64(original), _float64(moved)))
            self.max_abs_move = max(self.max_abs_move, move)

    def _add_places(self, a: Array, b: Array) -> None:
        nan = np.isnan(a) | np.isnan(b)
        inf = np.isinf(a) | np.isinf(b)
        self.nan_count += int(nan.sum())
        self.inf_count += int(inf.sum())
        self.same_nan &= bool(np.array_equal(np.isnan(a), np.isnan(b)))
        self.same_inf &= bool(np.array_equal(a[inf], b[inf]))

    def _add_rows(self, rows: Array) -> None:
        """How far the original's samples are from its first one."""
        self.rows += len(rows)
        if self.first_row is None and len(rows):
            self.first_row = rows[0].copy()
        if self.first_row is None:
            return
        moved = self.first_row.shape == rows.shape[1:]
        spread = _largest(_distances(rows, np.broadcast_to(self.first_row, rows.shape))) if moved else math.inf
        self.spread = max(self.spread, spread)

    def difference(self, tolerances: Tolerances, rounding_error: float) -> OutputDifference:
        scale, error = self.max_abs_value, self.max_abs_error
        exact = self.dtype.kind in _EXACT
        atol, rtol = (0.0, 0.0) if exact else tolerances.limits(self.name, self.dtype, rounding_error)
        if scale:
            relative, tolerance = error / scale, rtol + atol / scale
            close = relative <= tolerance
        else:
            relative, tolerance = (math.inf if error else 0.0), rtol
            close = error <= atol
        comparable = self.same_nan and self.same_inf and math.isfinite(relative) and (self.equal or not exact)
        return OutputDifference(
            name=self.name,
            dtype=self.dtype.name,
            max_abs_error=error,
            mean_abs_error=self.sum_abs_error / self.compared if self.compared else 0.0,
            max_abs_value=scale,
            relative_error=relative,
            rounding_error=rounding_error,
            tolerance=tolerance,
            smallest_passing_tolerance=relative if comparable else None,
            nan_count=self.nan_count,
            inf_count=self.inf_count,
            same_nan=self.same_nan,
            same_inf=self.same_inf,
            passed=self.same_nan and self.same_inf and (self.equal if exact else close),
        )

    def doubts(self, threshold: float) -> list[str]:
        if not self.compared:
            return [f"output {self.name!r} held no finite number: agreement on it proves nothing"]
        if self.rows > 1 and self.spread <= threshold:
            return [
                f"output {self.name!r} is the same for all {self.rows} samples, within the tolerance: "
                "agreement on it proves nothing"
            ]
        return []


def _float64(array: Array) -> Array:
    """``array`` in float64; complex numbers as pairs of real ones."""
    if array.dtype.kind == "c":
        return np.stack([array.real, array.imag], axis=-1).astype(np.float64)
    return array.astype(np.float64)


def _distances(a: Array, b: Array) -> Array:
    """|a − b| where both are finite."""
    finite = np.isfinite(a) & np.isfinite(b)
    with np.errstate(over="ignore"):
        return np.asarray(np.abs(a[finite] - b[finite]))


def _largest(values: Array) -> float:
    return float(values.max(initial=0.0))
