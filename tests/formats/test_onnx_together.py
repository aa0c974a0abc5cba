"""Several batch norms and one layer: what each may do alone they may not always do together."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from onnx import ModelProto, numpy_helper
from onnx_graphs import (
    Arrays,
    assert_same_network,
    assert_scale_matters,
    bn,
    case,
    folded,
    model,
    parameters,
    weight,
)
from small_views import looks_of_a_plan

from bnfold.formats.onnx.view import view_of

HALF_X, HALF_Y = "float16[1,2,3,3] x", "float16[] y"


def halves(suffix: str = "", *, scale: float = 1.0, shift: float = 0.0) -> Arrays:
    """Parameters in float16 of a batch norm that multiplies two channels by ``scale`` and adds ``shift``."""
    values = (scale, shift, 0.0, 1.0)
    return {f"{name}{suffix}": np.full(2, value, np.float16) for name, value in zip("gbmv", values, strict=True)}


POINT = {"w": np.full((2, 2, 1, 1), 2**-6, np.float16)}
WIDE = {"w": np.full((2, 4, 1, 1), 1, np.float16)}


@pytest.mark.parametrize(
    ("proto", "expected"),
    [
        case(
            {"y": "dtype-overflow"},
            f"r = Relu(x) c = Conv(r, w, k) d = Conv(x, w) s = Sub(c, d) y = {bn('s')}",
            {**POINT, "k": np.full(2, 100, np.float16), **halves(scale=400, shift=40000)},
            x=HALF_X,
            y=HALF_Y,
            id="a bias that a sum scales and shifts",
        ),
        case(
            {"u": "dtype-overflow"},
            f"u = {bn('x')} c = Concat<axis = 1>(u, u) y = Conv(c, w)",
            {**WIDE, **halves(shift=20000)},
            x=HALF_X,
            y=HALF_Y,
            id="both halves of an input",
        ),
        case(
            {"n": "no-linear-layer", "y": "no-linear-layer"},
            f"r = Relu(x) n = {bn('r')} y = {bn('n', '2')}",
            {**halves(shift=30000), "m": np.full(2, 29000, np.float16), **halves("2", scale=4)},
            x=HALF_X,
            y=HALF_Y,
            id="the shift of a batch norm, whose mean would take most of it away",
        ),
        case(
            {"u": "y", "v1": "dtype-overflow"},
            f"u = {bn('x')} r = Relu(x) v1 = {bn('r', '2')} c = Concat<axis = 1>(u, v1) y = Conv(c, w)",
            {**WIDE, **halves(shift=20000), **halves("2", shift=20000)},
            x=HALF_X,
            y=HALF_Y,
            id="two batch norms before parts of an input",
        ),
    ],
)
def test_what_would_leave_the_range_of_float16_together_does_not(proto: ModelProto, expected: dict[str, str]) -> None:
    result, found = folded(proto)
    assert found == expected
    assert all(np.isfinite(numpy_helper.to_array(item)).all() for item in result.graph.initializer)


def parts_of_an_output(count: int) -> ModelProto:
    """One convolution whose output is split into ``count`` parts, each with a batch norm."""
    names = ", ".join(f"p{number}" for number in range(count))
    norms = " ".join(
        f"n{number} = {bn(f'p{number}', str(number))} r{number} = Relu(n{number})" for number in range(count)
    )
    total = ", ".join(f"r{number}" for number in range(count))
    body = f"c = Conv(x, w) {names} = Split<axis = 1, num_outputs = {count}>(c) {norms} y = Sum({total})"
    return model(body, {"w": weight(2 * count, 3, 1, 1), **several(count, 2)})


def parts_of_an_input(count: int) -> ModelProto:
    """One convolution that reads ``count`` values joined, each with a batch norm."""
    norms = " ".join(f"n{number} = {bn('r', str(number))}" for number in range(count))
    parts = ", ".join(f"n{number}" for number in range(count))
    body = f"r = Relu(x) {norms} c = Concat<axis = 1>({parts}) y = Conv(c, w, k)"
    return model(body, {"w": weight(4, 3 * count, 1, 1), "k": weight(4), **several(count, 3)})


def shifts_of_a_sum(count: int) -> ModelProto:
    """One convolution that reads a sum of ``count`` values that are only shifted."""
    norms = " ".join(f"n{number} = {bn('r', str(number))}".replace("(", "<epsilon = 0.0>(") for number in range(count))
    total = ", ".join(f"n{number}" for number in range(count))
    unit = {f"g{number}": np.ones(3, np.float32) for number in range(count)}
    unit |= {f"v{number}": np.ones(3, np.float32) for number in range(count)}
    body = f"r = Relu(x) {norms} s = Sum({total}) y = Conv(s, w, k)"
    return model(body, {"w": weight(4, 3, 1, 1), "k": weight(4), **several(count, 3), **unit})


def several(count: int, channels: int) -> Arrays:
    """Parameters of so many batch norms."""
    arrays: Arrays = {}
    for number in range(count):
        arrays |= parameters(channels, str(number), seed=number)
    return arrays


@pytest.mark.parametrize("build", [parts_of_an_output, parts_of_an_input, shifts_of_a_sum])
def test_one_layer_takes_in_all_of_them(build: Callable[[int], ModelProto]) -> None:
    proto = build(7)
    result, found = folded(proto)
    assert set(found.values()) <= {"c", "y"}
    assert len(found) == 7
    assert "BatchNormalization" not in {node.op_type for node in result.graph.node}
    assert_same_network(proto, result)
    if build is not shifts_of_a_sum:
        for number in range(7):
            assert_scale_matters(proto, f"g{number}")


@pytest.mark.parametrize("build", [parts_of_an_output, parts_of_an_input])
def test_what_is_looked_up_grows_with_their_number_and_not_with_its_square(
    build: Callable[[int], ModelProto],
) -> None:
    looked_up = [looks_of_a_plan(view_of(build(count)).graph) for count in (20, 80)]
    assert looked_up[1] <= 4.5 * looked_up[0]
