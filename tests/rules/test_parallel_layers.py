"""A batch norm that is an addend of a sum, on small views: refusals first, each with its reason and its place."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from small_views import CHANNELS, constant, locked, view

from bnfold.core.graph import GraphView, Lock, Node, OpKind, Sums, Value
from bnfold.core.reason import Reason
from bnfold.core.traits import BatchNormTraits, LayerTraits, PoolTraits, Window
from bnfold.core.verdict import Fold, Keep
from bnfold.errors import UsageError
from bnfold.planner import plan

SQUARE = np.linspace(-1, 1, CHANNELS * CHANNELS * 9).reshape(CHANNELS, CHANNELS, 3, 3)
POINT = SQUARE[..., :1, :1].copy()
OVERRIDABLE = Value("w", lock=Lock(Reason.OVERRIDABLE_INITIALIZER, "is an input"))
BLOCK = "x relu conv add out; relu bn add"
"""A convolution and a batch norm beside it."""


def moves(
    kernel: int = 3, padding: int = 1, *, stride: int = 1, groups: int = 1, **traits: Any
) -> Callable[[Node], Node]:
    """A change: how a convolution moves."""
    window = Window((kernel,) * 2, (stride,) * 2, (1,) * 2, (padding,) * 2, (padding,) * 2)
    return lambda node: replace(node, traits=LayerTraits(groups=groups, window=window, **traits))


def averages(window: Window | None) -> Callable[[Node], Node]:
    return lambda node: replace(node, kind=OpKind.POOL, traits=PoolTraits(is_max=False, window=window))


def block(
    text: str = BLOCK,
    change: dict[str, Callable[[Node], Node]] | None = None,
    sums: Sums = Sums.JOIN_LAYERS,
    **arrays: Any,
) -> GraphView:
    """A view whose ``conv`` is a padded 3×3 with as many outputs as inputs, unless told otherwise."""
    arrays = {"conv_weight": SQUARE} | arrays
    return replace(view(text, change={"conv": moves()} | (change or {}), **arrays), sums=sums)


def refusal(graph: GraphView, reason: Reason, at: str, *words: str, id: str) -> object:  # noqa: A002 - pytest's word
    return pytest.param(graph, reason, at, words, id=id)


REFUSALS = [
    refusal(block(sums=Sums.FIXED), Reason.NO_LINEAR_LAYER, "relu", id="the front end changes no sum"),
    refusal(block("x relu a add out; relu bn add"), Reason.NO_LINEAR_LAYER, "relu", id="no layer in the sum"),
    refusal(
        block("x relu conv add out; relu bn add; conv b out"),
        Reason.FAN_OUT,
        "conv",
        "2 readers",
        id="a branch read elsewhere",
    ),
    refusal(
        block("x relu conv out add out; relu bn add"), Reason.MODEL_OUTPUT, "conv", id="a branch that is an output"
    ),
    refusal(
        block("x relu conv add out; relu bn add; bn b out"), Reason.FAN_OUT, "bn", id="the batch norm read elsewhere"
    ),
    refusal(
        block("x relu conv add out; relu bn out add"), Reason.MODEL_OUTPUT, "bn", id="a batch norm that is an output"
    ),
    refusal(
        block("x relu conv add out; relu other bn add"),
        Reason.UNLIKE_SIBLING,
        "conv",
        "reads another value",
        id="another input",
    ),
    refusal(block(change={"conv": moves(stride=2)}), Reason.UNLIKE_SIBLING, "conv", "stride 2×2", id="stride 2"),
    refusal(block(change={"conv": moves(padding=0)}), Reason.UNLIKE_SIBLING, "conv", "kernel 3×3", id="no padding"),
    refusal(
        block(change={"conv": moves(kernel=2)}, conv_weight=SQUARE[..., :2, :2].copy()),
        Reason.UNLIKE_SIBLING,
        "conv",
        "kernel 2×2",
        id="an even kernel, padded alike",
    ),
    refusal(
        block(change={"conv": lambda node: replace(node, traits=LayerTraits())}),
        Reason.UNLIKE_SIBLING,
        "conv",
        "size of its input",
        id="a padding that is not known",
    ),
    refusal(
        block(change={"conv": moves(gain=0.0)}), Reason.UNLIKE_SIBLING, "conv", "by 0", id="a layer that gives zeros"
    ),
    refusal(
        block(conv_weight=np.ones((CHANNELS, 2, 3, 3))),
        Reason.UNLIKE_SIBLING,
        "conv",
        "input channels",
        id="other inputs than outputs",
    ),
    refusal(
        block(conv_weight=np.ones((4, 4, 3, 3)), conv_bias=np.ones(4)),
        Reason.CHANNEL_MISMATCH,
        "conv",
        "4 output channels",
        id="other channels than the batch norm",
    ),
    refusal(
        block(
            "x relu linear add out; relu bn add",
            {"linear": lambda node: replace(node, traits=LayerTraits(channel_axis=-1, input_axis=-1))},
            linear_weight=SQUARE[..., 0, 0].copy(),
        ),
        Reason.CHANNEL_MISMATCH,
        "linear",
        "axis 3",
        id="a linear layer's channels are the last axis",
    ),
    refusal(block(conv_weight=Value("w")), Reason.WEIGHT_NOT_CONSTANT, "conv", id="a computed weight"),
    refusal(block(conv_weight=OVERRIDABLE), Reason.OVERRIDABLE_INITIALIZER, "conv", id="an overridable weight"),
    refusal(
        block(conv_weight=constant("w", SQUARE, "int8")), Reason.WEIGHT_NOT_CONSTANT, "conv", id="a quantised weight"
    ),
    refusal(
        block(change={"conv": lambda node: locked(Reason.HOOKED)(moves()(node))}), Reason.HOOKED, "conv", id="hooks"
    ),
    refusal(
        block(
            conv_weight=constant("w", np.full((3, 3, 3, 3), 6e4, np.float16)),
            bn_gamma=np.full(3, 6e4),
            bn_variance=np.ones(3),
            bn_mean=np.zeros(3),
        ),
        Reason.DTYPE_OVERFLOW,
        "conv",
        id="float16 overflows",
    ),
    refusal(
        block("x relu conv add out; relu pool bn add", {"pool": averages(None)}),
        Reason.UNLIKE_SIBLING,
        "conv",
        "another value",
        id="a mean over windows of different sizes",
    ),
    refusal(
        block(change={"bn": lambda node: replace(node, traits=BatchNormTraits(1e-5, training=True))}),
        Reason.TRAINING_MODE,
        "bn",
        id="in training mode",
    ),
    refusal(
        block("x relu conv mul add out; relu bn add"), Reason.NO_LINEAR_LAYER, "relu", id="a layer behind something"
    ),
]


@pytest.mark.parametrize(("graph", "reason", "at", "words"), REFUSALS)
def test_a_batch_norm_in_a_sum_stays_for_a_reason(
    graph: GraphView, reason: Reason, at: str, words: tuple[str, ...]
) -> None:
    (verdict,) = plan(graph)
    assert isinstance(verdict, Keep)
    assert verdict.node is not None
    assert (verdict.reason, verdict.node.label) == (reason, at), verdict.detail
    assert all(word in verdict.detail for word in words), verdict.detail


def folded_into(graph: GraphView, **options: Any) -> dict[str, list[str]]:
    found = plan(graph, **options)
    return {
        verdict.bn.label: [node.label for node in verdict.into] if isinstance(verdict, Fold) else [verdict.reason.slug]
        for verdict in found
    }


def test_a_batch_norm_goes_into_the_layer_beside_it() -> None:
    found = plan(block())
    (fold,) = found.folds
    assert (fold.rule, [node.label for node in fold.into]) == ("parallel-layers", ["conv"])
    assert found.left == ((2, frozenset({1})),)
    assert [edit.node.label for edit in found.edits] == ["conv"]


def test_a_front_end_that_can_only_drop_batch_norms_joins_no_layers() -> None:
    text = "x relu conv bn add out; relu conv2 add; relu bn2 add"
    graph = block(text, {"conv2": moves()}, Sums.DROP_BATCH_NORMS, conv2_weight=SQUARE)
    found = plan(graph)
    assert [verdict.rule for verdict in found.folds] == ["absorb-above", "parallel-layers"]
    assert found.joined == ()
    with pytest.raises(UsageError, match="merge-parallel"):
        plan(graph, merge_parallel=True)


def test_the_largest_kernel_takes_in_the_others() -> None:
    text = "x relu conv2 add out; relu conv add; relu bn add"
    graph = block(text, {"conv2": moves(1, 0)}, conv2_weight=POINT)
    found = plan(graph)
    assert folded_into(graph) == {"bn": ["conv"]}
    assert [[node.label for node in joined.removed] for joined in found.joined] == [["conv2"]]
    assert found.joined[0].edit.node.label == "conv"
    assert [edit.node.label for edit in found.edits] == ["conv"]


def test_a_layer_whose_batch_norm_went_into_it_is_named_by_where_it_ends() -> None:
    text = "x relu conv2 bn2 add out; relu conv add"
    graph = block(text, {"conv2": moves(1, 0)}, conv2_weight=POINT)
    found = plan(graph)
    assert [node.label for fold in found.folds for node in found.ends_of(fold)] == ["conv"]


def test_without_a_batch_norm_layers_stay_beside_one_another_unless_asked() -> None:
    graph = block("x relu conv2 add out; relu conv add", {"conv2": moves(1, 0)}, conv2_weight=POINT)
    assert plan(graph).joined == ()
    assert plan(graph).changes == ()
    asked = plan(graph, merge_parallel=True)
    assert asked.merged_layers == 1
    assert len(asked.changes) == 1


def test_a_batch_norm_behind_the_sum_is_one_that_takes_part() -> None:
    graph = block("x relu conv add bn out; relu add")
    found = plan(graph)
    assert folded_into(graph) == {"bn": ["conv"]}
    assert len(found.joined) == 1
    assert found.merged_layers == 0


def test_an_excluded_batch_norm_stays_an_addend() -> None:
    text = "x relu conv bn add out; relu bn2 add; relu conv2 add"
    graph = block(text, {"conv2": moves()}, conv2_weight=SQUARE)
    assert folded_into(graph, skip=["bn2"]) == {"bn": ["conv"], "bn2": ["excluded-by-user"]}
    assert plan(graph, skip=["bn2"]).left == ((3, frozenset({2})),)


def test_a_batch_norm_goes_into_the_next_layer_where_the_largest_cannot_take_it() -> None:
    text = "x relu conv add out; relu bn add; relu conv2 add; conv b out"
    graph = block(text, {"conv2": moves(1, 0)}, conv2_weight=POINT)
    assert folded_into(graph) == {"bn": ["conv2"]}


def test_a_sum_that_reads_its_input_twice_loses_it_twice() -> None:
    found = plan(block("x relu conv bn add out; relu add; relu add"))
    assert found.left == ((3, frozenset({1, 2})),)


def test_a_sum_inside_a_sum_goes_when_all_of_it_went_elsewhere() -> None:
    text = "x relu conv2 add add2 out; relu conv3 add; relu conv add2"
    point = {"conv2": moves(1, 0), "conv3": moves(1, 0)}
    found = plan(block(text, point, conv2_weight=POINT, conv3_weight=POINT), merge_parallel=True)
    assert found.left == ((2, frozenset({0, 1})), (3, frozenset({0})))
    assert [edit.node.label for edit in found.edits] == ["conv"]
