"""Verdicts on small views: refusals first, each with its reason, the node in the way and a word on it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_views import constant, locked, view

from bnfold.core.graph import GraphView, Lock, Value
from bnfold.core.reason import Reason
from bnfold.core.traits import BatchNormTraits, LayerTraits
from bnfold.core.verdict import Fold, Keep
from bnfold.planner import plan

OVERRIDABLE = Value("w", lock=Lock(Reason.OVERRIDABLE_INITIALIZER, "is an input"))
SHARED = replace(constant("w", np.ones((3, 2, 1, 1))), lock=Lock(Reason.WEIGHT_SHARED, "used by another layer"))


def refusal(graph: GraphView, reason: Reason, at: str | None, *words: str, id: str) -> object:  # noqa: A002 - pytest's word
    return pytest.param(graph, reason, at, words, id=id)


REFUSALS = [
    refusal(
        view("x conv bn out", change={"bn": lambda node: replace(node, traits=BatchNormTraits(1e-5, training=True))}),
        Reason.TRAINING_MODE,
        "bn",
        id="training mode",
    ),
    refusal(view("x conv bn out", bn_mean=None), Reason.NO_RUNNING_STATS, "bn", id="no running mean"),
    refusal(view("x conv bn out", bn_variance=None), Reason.NO_RUNNING_STATS, "bn", id="no running variance"),
    refusal(
        view("x conv bn out", bn_gamma=Value("x")), Reason.PARAMETERS_NOT_CONSTANT, "bn", "scale", id="a γ from outside"
    ),
    refusal(
        view("x conv bn out", bn_beta=OVERRIDABLE), Reason.OVERRIDABLE_INITIALIZER, "bn", "shift", id="an overridable β"
    ),
    refusal(
        view("x conv bn out", change={"bn": locked(Reason.STATISTICS_OUTPUTS_USED)}),
        Reason.STATISTICS_OUTPUTS_USED,
        "bn",
        id="statistics outputs",
    ),
    refusal(
        view("x conv bn out", change={"bn": locked(Reason.FOREIGN_AXIS)}), Reason.FOREIGN_AXIS, "bn", id="spatial=0"
    ),
    refusal(
        view("x conv bn out", bn_variance=[1.0, -1e-5, -2.0]),
        Reason.NON_FINITE_PARAMETERS,
        "bn",
        "channels 1, 2 of 3",
        id="σ²+ε not positive",
    ),
    refusal(
        view("x conv bn out", bn_mean=[0, np.nan, 0]), Reason.NON_FINITE_PARAMETERS, "bn", "channel 1 ", id="a NaN in μ"
    ),
    refusal(
        view("x conv bn out", bn_gamma=[np.inf, 1, 1]),
        Reason.NON_FINITE_PARAMETERS,
        "bn",
        "channel 0 ",
        id="an Inf in γ",
    ),
    refusal(
        view("x conv bn out", bn_beta=[0, 0, np.nan]), Reason.NON_FINITE_PARAMETERS, "bn", "channel 2 ", id="a NaN in β"
    ),
    refusal(
        view("x conv bn out", bn_gamma=[1e200] * 3, bn_variance=[1e-300] * 3, bn_mean=[1e200] * 3),
        Reason.NON_FINITE_PARAMETERS,
        "bn",
        id="a shift that overflows float64",
    ),
    refusal(view("x conv bn out", bn_gamma=[1.0, 2.0]), Reason.CHANNEL_MISMATCH, "bn", id="γ shorter than the rest"),
    refusal(view("x bn out"), Reason.NO_LINEAR_LAYER, None, "input", id="an input feeds the batch norm"),
    refusal(view("x conv relu bn out"), Reason.NO_LINEAR_LAYER, "relu", "relu", id="an activation between"),
    refusal(view("x conv bn out; conv relu out"), Reason.FAN_OUT, "conv", "relu", "2 readers", id="another reader"),
    refusal(
        view("x conv identity bn out; conv relu out"), Reason.FAN_OUT, "conv", id="another reader before an identity"
    ),
    refusal(
        view("x conv identity bn out; identity relu out"), Reason.FAN_OUT, "identity", id="another reader behind it"
    ),
    refusal(view("x conv out bn out"), Reason.MODEL_OUTPUT, "conv", id="the layer's output is an output"),
    refusal(view("x conv bn1 out; conv bn2 out"), Reason.FAN_OUT, "conv", id="two batch norms on one layer"),
    refusal(view("x linear bn out", rank=3), Reason.CHANNEL_MISMATCH, "linear", "axis 2", id="linear on (N, C, L)"),
    refusal(view("x linear bn out", rank=None), Reason.CHANNEL_MISMATCH, "linear", "rank", id="linear of unknown rank"),
    refusal(
        view("x conv bn out", conv_weight=np.ones((6, 2, 1, 1)), conv_bias=None),
        Reason.CHANNEL_MISMATCH,
        "conv",
        "6 output channels",
        id="other number of channels",
    ),
    refusal(
        view("x conv bn out", conv_weight=Value("w")),
        Reason.WEIGHT_NOT_CONSTANT,
        "conv",
        "weight",
        id="computed weight",
    ),
    refusal(
        view("x conv bn out", conv_bias=Value("b")), Reason.WEIGHT_NOT_CONSTANT, "conv", "bias", id="computed bias"
    ),
    refusal(
        view("x conv bn out", conv_weight=constant("w", np.ones((3, 2, 1, 1)), "int8")),
        Reason.WEIGHT_NOT_CONSTANT,
        "conv",
        "int8",
        id="a weight of integers",
    ),
    refusal(
        view("x conv bn out", conv_weight=SHARED), Reason.WEIGHT_SHARED, "conv", "another layer", id="a shared weight"
    ),
    refusal(
        view("x conv bn out", conv_weight=OVERRIDABLE), Reason.OVERRIDABLE_INITIALIZER, "conv", id="overridable weight"
    ),
    refusal(
        view("x conv bn out", change={"conv": locked(Reason.RUNS_MORE_THAN_ONCE)}),
        Reason.RUNS_MORE_THAN_ONCE,
        "conv",
        id="a layer that runs twice",
    ),
    refusal(
        view("x conv bn out", change={"conv": locked(Reason.HOOKED)}), Reason.HOOKED, "conv", id="a hook on the layer"
    ),
    refusal(
        view("x conv bn out", change={"bn": locked(Reason.HOOKED)}), Reason.HOOKED, "bn", id="a hook on the batch norm"
    ),
    refusal(
        view("x conv bn out", conv_weight=constant("w", np.full((3, 2, 1, 1), 6e4, np.float16)), bn_gamma=[4.0] * 3),
        Reason.DTYPE_OVERFLOW,
        "conv",
        id="beyond float16",
    ),
]


@pytest.mark.parametrize(("graph", "reason", "at", "words"), REFUSALS)
def test_kept_for_the_true_reason_at_the_true_place(
    graph: GraphView, reason: Reason, at: str | None, words: tuple[str, ...]
) -> None:
    verdicts = plan(graph).verdicts
    assert all(isinstance(verdict, Keep) for verdict in verdicts)
    keep = verdicts[0]
    assert isinstance(keep, Keep)
    assert (keep.reason, keep.node.label if keep.node else None) == (reason, at)
    for word in words:
        assert word in keep.detail
    assert plan(graph).edits == ()


FOLDS = [
    pytest.param(view("x conv bn out"), {"bn": ["conv"]}, id="conv"),
    pytest.param(view("x conv bn relu out", conv_bias=None), {"bn": ["conv"]}, id="conv without bias"),
    pytest.param(view("x conv bn out", bn_gamma=None, bn_beta=None), {"bn": ["conv"]}, id="without affine parameters"),
    pytest.param(view("x linear bn out", rank=2), {"bn": ["linear"]}, id="linear on a matrix"),
    pytest.param(view("x conv identity1 identity2 bn out"), {"bn": ["conv"]}, id="through identities"),
    pytest.param(view("x conv bn out; conv shape out"), {"bn": ["conv"]}, id="somebody reads only the shape"),
    pytest.param(
        view("x conv bn1 bn2 bn3 out"), {"bn1": ["conv"], "bn2": ["conv"], "bn3": ["conv"]}, id="a chain of batch norms"
    ),
    pytest.param(view("x conv1 bn1 relu conv2 bn2 out"), {"bn1": ["conv1"], "bn2": ["conv2"]}, id="two pairs"),
    pytest.param(view("x conv bn out", bn_gamma=[0.0, -1.0, 0.0]), {"bn": ["conv"]}, id="γ of zero and below"),
    pytest.param(view("x conv bn out", bn_variance=[0.0] * 3), {"bn": ["conv"]}, id="a variance of zero"),
    pytest.param(
        view(
            "x conv bn out",
            bn_variance=[1.0] * 3,
            change={"bn": lambda node: replace(node, traits=BatchNormTraits(epsilon=0.0))},
        ),
        {"bn": ["conv"]},
        id="an ε of zero",
    ),
    pytest.param(
        view(
            "x conv bn out",
            conv_weight=np.ones((4, 3, 1)),
            conv_bias=None,
            change={"conv": lambda node: replace(node, traits=LayerTraits(groups=1, inputs_first=True))},
        ),
        {"bn": ["conv"]},
        id="a transposed weight",
    ),
]


@pytest.mark.parametrize(("graph", "into"), FOLDS)
def test_folded_into(graph: GraphView, into: dict[str, list[str]]) -> None:
    verdicts = plan(graph).verdicts
    assert {
        verdict.bn.label: [edit.node.label for edit in verdict.edits]
        for verdict in verdicts
        if isinstance(verdict, Fold)
    } == into
    assert len(verdicts) == len(into)


def test_a_chain_overflows_together_though_each_alone_would_fit() -> None:
    weight = constant("w", np.full((3, 2, 1, 1), 100.0, np.float16))
    decided = plan(
        view("x conv bn1 bn2 out", conv_weight=weight, conv_bias=None, bn1_gamma=[100.0] * 3, bn2_gamma=[100.0] * 3)
    )
    first, second = decided.verdicts
    assert isinstance(first, Fold)
    assert isinstance(second, Keep)
    assert second.reason is Reason.DTYPE_OVERFLOW


def test_no_batch_norm_is_an_empty_plan() -> None:
    assert len(plan(view("x conv relu out"))) == 0


@pytest.mark.parametrize(
    ("options", "folded"),
    [
        ({"only": ["bn1"]}, {"bn1"}),
        ({"skip": ["bn1"]}, {"bn2"}),
        ({"only": ["bn*"], "skip": ["*2"]}, {"bn1"}),
        ({"only": ["nothing"]}, set()),
    ],
    ids=str,
)
def test_globs_choose_by_name(options: dict[str, Any], folded: set[str]) -> None:
    decided = plan(view("x conv1 bn1 relu conv2 bn2 out"), **options)
    assert {fold.bn.label for fold in decided.folds} == folded
    assert {keep.reason for keep in decided.keeps} == {Reason.EXCLUDED_BY_USER}


def test_a_scale_far_from_one_folds_with_a_warning() -> None:
    (verdict,) = plan(view("x conv bn out", bn_variance=[1e-14, 1.0, 1.0], bn_gamma=[1e3, 1.0, 1e-9])).verdicts
    assert isinstance(verdict, Fold)
    assert "channels 0, 2" in verdict.warnings[0]


def test_a_channel_that_is_switched_off_is_no_warning() -> None:
    (verdict,) = plan(view("x conv bn out", bn_gamma=[0.0, 1.0, 1.0])).verdicts
    assert isinstance(verdict, Fold)
    assert verdict.warnings == ()


@given(st.lists(st.sampled_from(["conv", "linear", "bn", "relu", "identity"]), min_size=1, max_size=12))
def test_every_batch_norm_gets_exactly_one_verdict_in_order(words: list[str]) -> None:
    graph = view(" ".join(["x", *(f"{word}{number}" for number, word in enumerate(words)), "out"]))
    decided = plan(graph)
    assert [verdict.bn.index for verdict in decided] == [bn.index for bn in graph.batch_norms]
    assert len(decided) == words.count("bn")


def test_a_plan_reads_as_a_line_for_each_batch_norm() -> None:
    decided = plan(view("x conv bn relu bn2 out"))
    folded, kept = decided
    assert str(folded) == "folded into 'conv'"
    assert str(kept).startswith("kept, BNF201 no-linear-layer at 'relu': ")
    assert str(decided) == f"'bn': {folded}\n'bn2': {kept}"


def test_a_verdict_escapes_the_names_of_a_model() -> None:
    hostile = view("x conv bn out", change={"conv": lambda node: replace(node, label="\x1b[2J")})
    assert str(plan(hostile)) == r"'bn': folded into '\x1b[2J'"


def test_what_is_wrong_with_the_batch_norm_itself_has_no_other_place() -> None:
    (kept,) = plan(view("x conv bn out", bn_mean=None))
    assert str(kept).startswith("kept, BNF102 no-running-stats: ")
