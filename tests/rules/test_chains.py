"""Batch norms with something between them that lets their affines pass: they fold in one round, the last one first."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from small_views import CHANNELS, constant, looks_of_a_plan, view

from bnfold.core.graph import GraphView, OpKind
from bnfold.core.kernel import kernel_of
from bnfold.core.reason import Reason
from bnfold.core.traits import PoolTraits
from bnfold.core.verdict import Fold, Keep
from bnfold.planner import plan

SQUARE = np.linspace(-1, 1, CHANNELS * CHANNELS).reshape(CHANNELS, CHANNELS, 1, 1)


TWENTYFOLD: dict[str, Any] = {
    f"bn{number}_{name}": [value] * CHANNELS
    for number in (1, 2, 3)
    for name, value in (("gamma", 20.0), ("variance", 1.0))
}
"""Arrays with which three batch norms multiply by about 20."""


def chain(count: int, start: int = 1) -> str:
    """The words of so many batch norms, an identity behind each."""
    return " ".join(f"bn{number} identity{number}" for number in range(start, start + count))


def sized(text: str) -> GraphView:
    """A view whose shapes are known, as sums need them."""
    graph = view(text)
    shapes = {output: (None, CHANNELS, 1, 1) for node in graph.nodes for output in node.outputs}
    return replace(graph, load_shapes=lambda: shapes)


def ends(graph: GraphView) -> list[str]:
    """For each batch norm: the layers that swallow it in the end, or why it stays."""
    decided = plan(graph)
    return [
        ",".join(node.label for node in decided.ends_of(verdict)) if isinstance(verdict, Fold) else verdict.reason.slug
        for verdict in decided
    ]


@pytest.mark.parametrize(
    ("graph", "expected"),
    [
        pytest.param(
            view(f"x conv {chain(4)} out; identity2 relu out"),
            ["conv", "conv", Reason.FAN_OUT.slug, "bn3"],
            id="the second has another reader",
        ),
        pytest.param(
            view(f"x conv {chain(4)} out", bn3_variance=[-1.0] * CHANNELS),
            ["conv", "conv", Reason.NON_FINITE_PARAMETERS.slug, Reason.NO_LINEAR_LAYER.slug],
            id="the third is broken",
        ),
        pytest.param(
            view(
                f"x conv {chain(3)} out",
                conv_weight=constant("w", np.full((CHANNELS, CHANNELS, 1, 1), 1000.0, np.float16)),
                conv_bias=None,
                **TWENTYFOLD,
            ),
            ["conv", Reason.DTYPE_OVERFLOW.slug, "bn2"],
            id="together they would leave the range of float16",
        ),
        pytest.param(
            view(
                "x conv max bn1 identity bn2 out",
                change={"max": lambda node: replace(node, kind=OpKind.POOL, traits=PoolTraits(is_max=True))},
                bn2_gamma=[-1.0] * CHANNELS,
            ),
            ["conv", Reason.NO_LINEAR_LAYER.slug],
            id="the first alone may go through a maximum",
        ),
        pytest.param(view(f"x relu {chain(3)} relu2 out"), [Reason.NO_LINEAR_LAYER.slug, "bn1", "bn1"], id="no layer"),
        pytest.param(view(f"x conv {chain(5)} relu out"), ["conv"] * 5, id="behind a layer"),
        pytest.param(view(f"x {chain(5)} conv out", conv_weight=SQUARE), ["conv"] * 5, id="before a layer"),
        pytest.param(
            view(f"x conv1 {chain(5)} conv2 out", conv2_weight=SQUARE), ["conv1"] * 4 + ["conv2"], id="between layers"
        ),
        pytest.param(
            view("x conv bn1 bn2 identity1 bn3 bn4 identity2 bn5 out"), ["conv"] * 5, id="rows between identities"
        ),
        pytest.param(
            sized("x conv1 bn1 add1 bn2 add2 bn3 out; x conv2 add1; x conv3 add2"),
            ["conv1", "conv1,conv2", "conv1,conv2,conv3"],
            id="sums between them",
        ),
        pytest.param(
            sized("x conv1 bn1 add bn3 out; x conv2 bn2 add"),
            ["conv1", "conv1,conv2", "conv2"],
            id="a sum of two of them",
        ),
    ],
)
def test_where_each_of_a_chain_goes(graph: GraphView, expected: list[str]) -> None:
    assert [set(found.split(",")) for found in ends(graph)] == [set(found.split(",")) for found in expected]


def test_nodes_in_reverse_order_fold_as_well() -> None:
    graph = view(f"x conv {chain(4)} relu out")
    nodes = tuple(replace(node, index=position) for position, node in enumerate(reversed(graph.nodes)))
    assert ends(replace(graph, nodes=nodes)) == ["conv"] * 4


@pytest.mark.parametrize("text", ["x conv bn1 identity bn2 out", "x bn1 identity bn2 conv out"])
def test_what_a_layer_swallows_is_one_map_after_the_other(text: str) -> None:
    graph = view(text, conv_weight=SQUARE, bn1_gamma=[2.0] * CHANNELS, bn2_gamma=[3.0] * CHANNELS)
    decided = plan(graph)
    (edit,) = decided.edits
    assert len(edit.steps) == 1
    first, second = (fold.affine for fold in decided.folds)
    kernel = kernel_of(graph, edit.node)
    one_by_one = (
        kernel.scale_outputs(first).scale_outputs(second)
        if text.startswith("x conv")
        else kernel.absorb_inputs(second).absorb_inputs(first)
    )
    together = kernel.after(edit.steps)
    np.testing.assert_allclose(together.weight, one_by_one.weight, rtol=1e-14)
    assert together.bias is not None
    assert one_by_one.bias is not None
    np.testing.assert_allclose(together.bias, one_by_one.bias, rtol=1e-14)


@pytest.mark.parametrize(
    "build",
    [
        pytest.param(lambda count: view(f"x conv {chain(count)} relu out"), id="behind a layer"),
        pytest.param(lambda count: view(f"x {chain(count)} conv out", conv_weight=SQUARE), id="before a layer"),
        pytest.param(lambda count: view(f"x relu1 {chain(count)} relu2 out"), id="alone"),
        pytest.param(
            lambda count: sized(
                "x conv bn "
                + " ".join(f"add{number} bn{number}" for number in range(count))
                + " out; "
                + "; ".join(f"x conv{number} add{number}" for number in range(count))
            ),
            id="sums between them",
        ),
    ],
)
def test_what_is_looked_up_grows_with_a_chain_and_not_with_its_square(build: Callable[[int], GraphView]) -> None:
    looked_up = [looks_of_a_plan(build(count)) for count in (50, 200)]
    assert looked_up[1] <= 4.5 * looked_up[0]


def test_the_reader_of_a_verdict_sees_who_takes_it_along() -> None:
    graph = view("x conv bn1 identity bn2 out")
    verdicts = plan(graph).verdicts
    assert not [verdict for verdict in verdicts if isinstance(verdict, Keep)]
    assert [[node.label for node in verdict.into] for verdict in verdicts if isinstance(verdict, Fold)] == [
        ["conv"],
        ["bn1"],
    ]
    assert {verdict.rule for verdict in verdicts if isinstance(verdict, Fold)} == {"absorb-above"}
