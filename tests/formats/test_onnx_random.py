"""Whatever is folded in random graphs, the outputs agree with the original's in onnxruntime without optimisations."""

from __future__ import annotations

import os
from random import Random

import numpy as np
import onnx
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from random_graphs import GraphBuilder

from bnfold import fold
from bnfold.runtime import ort

GRAPHS = int(os.environ.get("BNFOLD_RANDOM_GRAPHS", "1000"))
"""How many graphs are tried; the documentation quotes what 50,000 showed."""
TOLERANCE = 1e-3
"""Relative to the largest output: rounding stays below, and a wrong scale or shift of a channel far above."""


@settings(max_examples=GRAPHS, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.integers(0, 2**63 - 1), st.integers(2, 14))
def test_a_folded_random_graph_computes_the_same(seed: int, operators: int) -> None:
    graph = GraphBuilder(Random(seed)).build(operators)  # noqa: S311 - reproducible, not secret
    if not graph.graph.node:
        return
    onnx.checker.check_model(graph, full_check=True)
    result = fold(graph)
    onnx.checker.check_model(result.model, full_check=True)
    assert result.model.graph.input == graph.graph.input
    assert result.model.graph.output == graph.graph.output
    shape = [dim.dim_value or 2 for dim in graph.graph.input[0].type.tensor_type.shape.dim]
    feeds = {"x": np.random.default_rng(seed).normal(size=shape).astype(np.float32)}
    expected = ort.open_session(graph.SerializeToString(), optimise=False).run(feeds)
    actual = ort.open_session(result.model.SerializeToString(), optimise=False).run(feeds)
    for name, before in expected.items():
        scale = float(np.abs(before).max(initial=0))
        assert np.isfinite(scale)
        assert float(np.abs(before - actual[name]).max(initial=0)) <= TOLERANCE * scale + 1e-6


def test_a_folded_model_folds_no_further_and_is_left_alone() -> None:
    for seed in range(200):
        graph = GraphBuilder(Random(seed)).build(10)  # noqa: S311 - reproducible, not secret
        once = fold(graph)
        twice = fold(once.model)
        assert not twice.plan.folds
        assert twice.model == once.model


def test_random_graphs_hold_batch_norms_that_fold_and_some_that_stay() -> None:
    plans = [fold(GraphBuilder(Random(seed)).build(10)).plan for seed in range(200)]  # noqa: S311 - reproducible
    folds = sum(len(plan.folds) for plan in plans)
    keeps = sum(len(plan.keeps) for plan in plans)
    assert folds > 80
    assert keeps > 80
    assert len({keep.reason for plan in plans for keep in plan.keeps}) >= 4
    assert {fold.rule for plan in plans for fold in plan.folds} == {"absorb-above", "absorb-below", "merge"}
