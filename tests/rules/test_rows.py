"""Batch norms directly behind one another, which fold together: what each verdict says, and how often they look."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from small_views import CHANNELS, constant, looks_of_a_plan, view

from bnfold.core.graph import GraphView, Value
from bnfold.core.kernel import kernel_of
from bnfold.core.reason import Reason
from bnfold.core.steps import Step
from bnfold.core.verdict import Fold, Plan
from bnfold.planner import plan

SQUARE = np.linspace(-1, 1, CHANNELS * CHANNELS).reshape(CHANNELS, CHANNELS, 1, 1)


def row(count: int, start: int = 1) -> str:
    """The words of so many batch norms behind one another."""
    return " ".join(f"bn{number}" for number in range(start, start + count))


def small_weight(largest: float) -> Value:
    """A weight of float16, which holds no more than 65504."""
    return constant("w", np.full((CHANNELS, CHANNELS, 1, 1), largest, np.float16))


def scales(count: int, scale: float) -> dict[str, Any]:
    """Arrays with which so many batch norms multiply by ``scale``, but for the ε in their variance."""
    values = {"gamma": scale, "beta": 0.0, "mean": 0.0, "variance": 1.0}
    return {
        f"bn{number}_{name}": [value] * CHANNELS for number in range(1, count + 1) for name, value in values.items()
    }


def ends(decided: Plan) -> list[str]:
    """For each batch norm: the layers that swallow it, or why it stays."""
    return [
        ",".join(node.label for node in decided.ends_of(verdict)) if isinstance(verdict, Fold) else verdict.reason.slug
        for verdict in decided
    ]


@pytest.mark.parametrize(
    ("graph", "expected"),
    [
        pytest.param(view(f"x relu {row(4)} out"), [Reason.NO_LINEAR_LAYER.slug, "bn1", "bn1", "bn1"], id="alone"),
        pytest.param(
            view(f"x conv {row(3)} out; bn3 {row(3, 4)} out"),
            ["conv"] * 3 + [Reason.MODEL_OUTPUT.slug, "bn4", "bn4"],
            id="the third is an output",
        ),
        pytest.param(
            view(f"x relu1 {row(3)} relu2 out; bn3 {row(3, 4)} conv out", conv_weight=SQUARE),
            [Reason.NO_LINEAR_LAYER.slug, "bn1", "bn1", "conv", "conv", "conv"],
            id="the third has another reader",
        ),
        pytest.param(
            view(f"x conv {row(4)} out", bn3_variance=[-1.0] * CHANNELS),
            ["conv", "conv", Reason.NON_FINITE_PARAMETERS.slug, Reason.NO_LINEAR_LAYER.slug],
            id="the third is broken",
        ),
        pytest.param(
            view(f"x conv {row(8)} out", conv_weight=small_weight(1000.0), conv_bias=None, **scales(8, 2.0)),
            ["conv"] * 6 + [Reason.DTYPE_OVERFLOW.slug, "bn7"],
            id="the seventh would leave the range of float16",
        ),
        pytest.param(
            view(
                f"x conv1 {row(8)} conv2 out",
                conv1_weight=small_weight(1000.0),
                conv2_weight=small_weight(1000.0),
                **scales(8, 2.0),
            ),
            ["conv1"] * 4 + ["conv2"] * 4,
            id="no layer alone could hold them",
        ),
        pytest.param(view(f"x conv {row(5)} relu out"), ["conv"] * 5, id="behind a layer"),
        pytest.param(view(f"x {row(5)} conv out", conv_weight=SQUARE), ["conv"] * 5, id="before a layer"),
        pytest.param(view(f"x conv1 {row(5)} conv2 out", conv2_weight=SQUARE), ["conv1"] * 5, id="between layers"),
    ],
)
def test_where_each_of_a_row_goes(graph: GraphView, expected: list[str]) -> None:
    assert ends(plan(graph)) == expected


def test_a_row_is_one_map_to_its_layer_and_several_to_the_reader_of_its_verdicts() -> None:
    graph = view("x conv bn1 bn2 bn3 out", bn1_gamma=[2.0] * CHANNELS, bn2_gamma=[3.0] * CHANNELS)
    decided = plan(graph)
    (edit,) = decided.edits
    (step,) = edit.steps
    assert isinstance(step, Step)
    affines = [fold.affine for fold in decided.folds]
    assert len({fold.affine.scale[0] for fold in decided.folds}) == 3
    one_by_one = kernel_of(graph, edit.node)
    for affine in affines:
        one_by_one = one_by_one.scale_outputs(affine)
    together = kernel_of(graph, edit.node).after(edit.steps)
    np.testing.assert_allclose(together.weight, one_by_one.weight, rtol=1e-14)
    assert together.bias is not None
    assert one_by_one.bias is not None
    np.testing.assert_allclose(together.bias, one_by_one.bias, rtol=1e-14)


def test_one_that_is_excluded_parts_a_row() -> None:
    decided = plan(view(f"x conv1 {row(5)} conv2 out", conv2_weight=SQUARE), skip=["bn3"])
    assert ends(decided) == ["conv1", "conv1", Reason.EXCLUDED_BY_USER.slug, "conv2", "conv2"]


@pytest.mark.parametrize(
    "build",
    [
        pytest.param(lambda count: view(f"x conv {row(count)} relu out"), id="behind a layer"),
        pytest.param(lambda count: view(f"x {row(count)} conv out", conv_weight=SQUARE), id="before a layer"),
        pytest.param(lambda count: view(f"x relu1 {row(count)} relu2 out"), id="alone"),
        pytest.param(lambda count: view(f"x conv {row(count)} relu out; bn{count // 2} out"), id="an output in it"),
        pytest.param(
            lambda count: view(f"x conv {row(count)} relu1 out; bn{count // 2} relu2 out"), id="a reader in it"
        ),
        pytest.param(
            lambda count: view(
                f"x conv {row(count)} out", conv_weight=small_weight(1000.0), **scales(count, 60 ** (2 / count))
            ),
            id="half of it overflows",
        ),
    ],
)
def test_what_is_looked_up_grows_with_a_row_and_not_with_its_square(build: Callable[[int], GraphView]) -> None:
    looked_up = [looks_of_a_plan(build(count)) for count in (100, 400)]
    assert looked_up[1] <= 4.5 * looked_up[0]
