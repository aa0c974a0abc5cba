"""Additions and multiplications by numbers, or by what is computed from stored tensors alone: runs of them are one map.

What ``formats/onnx/runs.py`` is for ONNX.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from bnfold.core.graph import OpKind
from bnfold.core.traits import Arithmetic, ScaleShiftStep, ScaleShiftTraits
from bnfold.formats.torch.calls import Call, Ref
from bnfold.formats.torch.operators import Meaning
from bnfold.formats.torch.recording import Recording

NUMBER = "="
"""What the ids of numbers that the code names begin with."""

_WITH_CONSTANT_SECOND = {
    "add": Arithmetic.ADD,
    "sub": Arithmetic.SUBTRACT,
    "subtract": Arithmetic.SUBTRACT,
    "rsub": Arithmetic.SUBTRACT_FROM,
    "mul": Arithmetic.MULTIPLY,
    "multiply": Arithmetic.MULTIPLY,
    "div": Arithmetic.DIVIDE,
    "divide": Arithmetic.DIVIDE,
    "true_divide": Arithmetic.DIVIDE,
}
_WITH_CONSTANT_FIRST = {
    "add": Arithmetic.ADD,
    "sub": Arithmetic.SUBTRACT_FROM,
    "subtract": Arithmetic.SUBTRACT_FROM,
    "rsub": Arithmetic.SUBTRACT,
    "mul": Arithmetic.MULTIPLY,
    "multiply": Arithmetic.MULTIPLY,
}
"""Division by the value is no affine map."""
NEUTRAL = {Arithmetic.ADD: 0.0, Arithmetic.SUBTRACT: 0.0, Arithmetic.MULTIPLY: 1.0, Arithmetic.DIVIDE: 1.0}
"""The constants with which a step changes nothing."""
SQUARE_ROOTS = frozenset({"sqrt", "rsqrt"})


@dataclass(frozen=True, eq=False)
class ArithmeticStep:
    """One call: the value that it works on, its constant, and what it does."""

    call: Call
    data: str
    constant: str
    step: ScaleShiftStep

    @property
    def number(self) -> float | None:
        """The constant where the code names it."""
        return float(self.constant.removeprefix(NUMBER)) if self.constant.startswith(NUMBER) else None


@dataclass(frozen=True, eq=False)
class ArithmeticRun:
    """Steps one behind the other, each the only reader of the one before, all along one axis or none."""

    steps: tuple[ArithmeticStep, ...]

    @property
    def data(self) -> str:
        """The value that the run works on."""
        return self.steps[0].data

    @property
    def output(self) -> str:
        """What the last step makes."""
        return self.steps[-1].call.outputs[0]

    @property
    def constants(self) -> tuple[str, ...]:
        """The ids of the constants, one a step; those of stored tensors are their names."""
        return tuple(step.constant for step in self.steps)

    @property
    def computed(self) -> tuple[str, ...]:
        """The constants that are tensors, stored or computed."""
        return tuple(value for value in self.constants if not value.startswith(NUMBER))

    def meaning(self, recording: Recording) -> Meaning:
        """A batch norm where it scales and shifts each channel on its own, or a square root takes part.

        What changes nothing is a copy: ``sum(branches)`` begins with 0.
        """
        if all(step.number == NEUTRAL.get(step.step.arithmetic) for step in self.steps):
            return Meaning(OpKind.LAYOUT, (self.data,))
        shape = recording.recorder.shapes[self.data]
        steps = tuple(step.step for step in self.steps)
        axis = next((step.axis for step in steps if step.axis is not None), min(1, len(shape) - 1))
        traits = ScaleShiftTraits(steps, axis, shape[axis], is_fixed=True)
        roots = SQUARE_ROOTS.intersection(call.op for call in recording.lineage.chain(self.computed))
        kind = OpKind.BATCH_NORM if traits.normalises or roots else OpKind.SCALE_SHIFT
        return Meaning(kind, (self.data, *self.constants), traits)


def run_from(recording: Recording, call: Call) -> ArithmeticRun | None:
    """The run that begins with ``call``, if that is arithmetic with a constant."""
    steps: list[ArithmeticStep] = []
    following: Call | None = call
    while following is not None and (found := _step_of(recording, following)):
        if steps and found.data != steps[-1].call.outputs[0]:
            break
        axes = {known.step.axis for known in (*steps, found)} - {None}
        if len(axes) > 1:
            break
        steps.append(found)
        result = following.outputs[0]
        users = recording.users[result]
        following = users[0] if len(users) == 1 and result not in recording.outputs else None
    return ArithmeticRun(tuple(steps)) if steps else None


def _step_of(recording: Recording, call: Call) -> ArithmeticStep | None:
    """What a call does to its one computed operand, if that is the same for every element of a channel.

    The constant is a number, or varies along one axis, and gives the result no other shape or dtype than the operand's.
    """
    name = call.op.removesuffix("_")
    if name not in _WITH_CONSTANT_SECOND or call.arguments.get("alpha", 1) != 1 or call.arguments.get("rounding_mode"):
        return None
    first, second = (_operand(call, word) for word in ("self", "other"))
    second_is_constant = _is_constant(recording, second)
    if first is None or second is None or second_is_constant == _is_constant(recording, first):
        return None
    table = _WITH_CONSTANT_SECOND if second_is_constant else _WITH_CONSTANT_FIRST
    data, constant = (first, second) if second_is_constant else (second, first)
    if data in recording.lineage.derived:
        return None  # it computes a weight
    known = recording.recorder
    types = known.dtypes[data], known.dtypes[call.outputs[0]]
    if name not in table or known.shapes[data] != known.shapes[call.outputs[0]] or types[0] is not types[1]:
        return None
    shape, own = known.shapes[data], () if constant.startswith(NUMBER) else known.shapes[constant]
    axes = [len(shape) + axis - len(own) for axis, size in enumerate(own) if size != 1]
    if not shape or not types[0].is_floating_point or len(axes) > 1 or (axes and shape[axes[0]] != math.prod(own)):
        return None
    return ArithmeticStep(call, data, constant, ScaleShiftStep(table[name], 1, axes[0] if axes else None))


def _operand(call: Call, name: str) -> str | None:
    """The value id of an operand; a number in the code gets one that says it."""
    argument = call.arguments.get(name)
    if isinstance(argument, Ref):
        return argument.id
    return f"{NUMBER}{float(argument)!r}" if isinstance(argument, int | float) else None


def _is_constant(recording: Recording, value: str | None) -> bool:
    """Whether a value is a number, or a fixed tensor whose values are at hand."""
    if value is None or value.startswith(NUMBER):
        return value is not None
    is_at_hand = value in recording.tensors or value in recording.recorder.known
    return is_at_hand and recording.lineage.is_fixed(value) and recording.recorder.dtypes[value].is_floating_point
