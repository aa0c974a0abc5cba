from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from checked_models import (
    Array,
    ConvBn,
    FunctionSession,
    conv_bn,
    folded_model,
    function_pair,
    original_model,
    ort_pair,
)
from torch import nn

from bnfold.check.datasets import dataset_inputs
from bnfold.check.inputs import random_inputs
from bnfold.check.tolerance import Tolerances
from bnfold.check.verify import Pair, Verification, verify
from bnfold.data.dataset import DataSet
from bnfold.errors import UsageError
from bnfold.runtime import torch_eager
from bnfold.runtime.session import Feeds, TensorSpec


@pytest.fixture(scope="module")
def network() -> ConvBn:
    return conv_bn()


def verified(pair: Pair, **options: Any) -> Verification:
    return verify(pair, random_inputs(pair.original.inputs), **options)


def one_channel_scaled(network: ConvBn) -> tuple[Array, Array]:
    weight, bias = network.folded_weight()
    weight[3] *= 1.01
    return weight, bias


def forgotten_epsilon(network: ConvBn) -> tuple[Array, Array]:
    return network.folded_weight(epsilon=0.0)


def one_nan(network: ConvBn) -> tuple[Array, Array]:
    weight, bias = network.folded_weight()
    weight[3, 0, 1, 1] = np.nan
    return weight, bias


DAMAGES = [one_channel_scaled, forgotten_epsilon, one_nan]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_fold_fails_in_onnx(network: ConvBn, damage: Any) -> None:
    result = verified(ort_pair(original_model(network), folded_model(network, *damage(network))))
    assert not result.passed
    assert not result.as_written.passed


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_fold_fails_in_torch(network: ConvBn, damage: Any) -> None:
    original, folded = torch_modules(network, *damage(network))
    assert not verified(torch_pair(original, folded)).passed


def test_one_nan_is_counted_and_no_tolerance_would_pass_it(network: ConvBn) -> None:
    result = verified(ort_pair(original_model(network), folded_model(network, *one_nan(network))))
    (scores,) = result.as_written.outputs
    assert scores.nan_count > 0
    assert not scores.same_nan
    assert scores.smallest_passing_tolerance is None


def test_flips_fail_where_the_numbers_are_within_the_tolerance() -> None:
    def scores(turned: tuple[int, ...]) -> Any:
        def scored(feeds: Feeds) -> dict[str, Array]:
            darker = feeds["x"].mean(axis=(1, 2), keepdims=True)[:, 0]
            nearly = np.float32(1 + 1e-6)
            first = np.where(np.isin(np.arange(len(darker)), turned)[:, None], darker / nearly, darker * nearly)
            return {"y": np.concatenate([first, darker], axis=1)}

        return scored

    pair = function_pair(scores(()), scores((2, 5)), inputs=(TensorSpec("x", "float32", ("n", 28, 28)),))
    source = dataset_inputs(pair.original.inputs, images(8))
    result = verify(pair, source)
    assert result.as_written.passed
    assert result.accuracy is not None
    assert result.accuracy.flipped == (2, 5)
    assert not result.passed
    assert verify(pair, source, max_flips=2).passed


def test_a_tolerance_for_an_unknown_output_is_refused(network: ConvBn) -> None:
    pair = ort_pair(original_model(network), original_model(network))
    with pytest.raises(UsageError, match=r"'logits'.*\n.*'scores'"):
        verified(pair, tolerances=Tolerances(rtol={"logits": 1e-3}))


@pytest.mark.parametrize(
    ("inputs", "statement"),
    [
        pytest.param((), "the folded model has no input 'x'", id="missing"),
        pytest.param((TensorSpec("x", "float16", ("n", 4)),), "input 'x' is float32 nx4 in the original", id="type"),
        pytest.param((TensorSpec("x", "float32", ("n", 5)),), "float32 nx5 in the folded model", id="size"),
        pytest.param((TensorSpec("x", "float32", ("n", 4, 1)),), "float32 nx4x1 in the folded model", id="rank"),
    ],
)
def test_other_inputs_are_a_difference_and_no_crash(inputs: tuple[TensorSpec, ...], statement: str) -> None:
    pair = Pair(FunctionSession(doubled), FunctionSession(doubled, inputs=inputs))
    result = verified(pair)
    assert not result.passed
    assert statement in result.as_written.differences[0]


def test_an_added_input_is_a_difference() -> None:
    more = (TensorSpec("x", "float32", ("n", 4)), TensorSpec("z", "float32", ("n",)))
    pair = Pair(FunctionSession(doubled), FunctionSession(doubled, inputs=more))
    assert verified(pair).as_written.differences == ("the original model has no input 'z'",)


def test_sizes_that_one_model_leaves_free_are_no_difference() -> None:
    free = (TensorSpec("x", "float32", None),)
    pair = Pair(FunctionSession(doubled), FunctionSession(doubled, inputs=free))
    assert verified(pair).passed


def test_a_deployed_difference_warns_and_does_not_fail() -> None:
    written = function_pair(doubled, doubled)
    deployed = function_pair(doubled, lambda feeds: {"y": feeds["x"] * np.float32(2.1)}, label="deployed NumPy")
    result = verified(written, as_deployed=deployed)
    assert result.passed
    assert result.as_deployed is not None
    assert not result.as_deployed.passed
    assert len(result.warnings) == 1
    assert "as deployed (deployed NumPy) the models differ: output 'y'" in result.warnings[0]


def test_a_deployed_nan_is_named_in_the_warning() -> None:
    deployed = function_pair(doubled, lambda feeds: {"y": np.full_like(feeds["x"], np.nan)})
    result = verified(function_pair(doubled, doubled), as_deployed=deployed)
    assert "has NaN or Inf in other places" in result.warnings[0]


def test_a_constant_output_passes_with_a_warning() -> None:
    constant = function_pair(lambda feeds: {"y": 0 * feeds["x"] + 3}, lambda feeds: {"y": 0 * feeds["x"] + 3})
    result = verified(constant)
    assert result.passed
    assert result.warnings == (
        "output 'y' is the same for all 64 samples, within the tolerance: agreement on it proves nothing",
    )


def test_labels_that_no_output_answers_warn() -> None:
    pair = function_pair(flat_sum, flat_sum, inputs=(TensorSpec("x", "float32", ("n", 28, 28)),))
    result = verify(pair, dataset_inputs(pair.original.inputs, images(8)))
    assert result.accuracy is None
    assert result.passed
    assert "accuracy was not compared" in result.warnings[0]


def test_labels_that_name_no_class_warn() -> None:
    pair = function_pair(
        lambda feeds: {"y": feeds["x"][:, 0, :4]},
        lambda feeds: {"y": feeds["x"][:, 0, :4]},
        inputs=(TensorSpec("x", "float32", ("n", 28, 28)),),
    )
    labelled = replace(images(8), y=np.array([0, 1, 2, 3, 4, 9, -1, 0]))
    result = verify(pair, dataset_inputs(pair.original.inputs, labelled))
    assert result.accuracy is not None
    assert result.warnings == ("3 labels name no class of the model: they count as wrong",)


def test_a_correct_fold_passes_in_onnx_as_written_and_as_deployed(network: ConvBn) -> None:
    original, folded = original_model(network), folded_model(network, *network.folded_weight())
    result = verified(ort_pair(original, folded), as_deployed=ort_pair(original, folded, optimise=True))
    assert result.passed
    assert result.warnings == ()
    assert result.as_written.runtime == "onnxruntime, optimisations off"
    assert result.as_deployed is not None
    assert result.as_deployed.runtime == "onnxruntime, default optimisations"
    assert 0 < result.as_written.outputs[0].relative_error < 1e-6


def test_a_correct_fold_passes_in_torch(network: ConvBn) -> None:
    result = verified(torch_pair(*torch_modules(network, *network.folded_weight())))
    assert result.passed
    assert result.warnings == ()
    assert [output.name for output in result.as_written.outputs] == ["output"]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_a_correct_fold_passes_in_other_types(network: ConvBn, dtype: torch.dtype) -> None:
    original, folded = torch_modules(network, *network.folded_weight(np.float64))
    result = verified(torch_pair(original.to(dtype), folded.to(dtype), dtype))
    assert result.passed
    assert f"torch.{result.as_written.outputs[0].dtype}" == str(dtype)


def test_models_with_a_fixed_batch_run_on_padded_data_and_count_each_sample_once(network: ConvBn) -> None:
    folded = folded_model(network, *network.folded_weight(), batch=7)
    pair = ort_pair(original_model(network, batch=7), folded)
    result = verify(pair, dataset_inputs(pair.original.inputs, images(10)))
    free = ort_pair(original_model(network), folded_model(network, *network.folded_weight()))
    expected = verify(free, dataset_inputs(free.original.inputs, images(10)))
    assert result.passed
    assert result.data.batch == 7
    assert result.accuracy is not None
    assert result.accuracy == expected.accuracy
    assert result.accuracy.samples == 10
    assert result.as_written.outputs[0].mean_abs_error == pytest.approx(
        expected.as_written.outputs[0].mean_abs_error, rel=0.5
    )


@pytest.mark.parametrize(("error", "passes"), [(5e-4, True), (2e-3, False)], ids=["within", "above the ceiling"])
def test_a_network_that_magnifies_rounding_is_judged_by_its_own_ulp(error: float, passes: bool) -> None:  # noqa: FBT001 - a table's column
    def steep(feeds: Feeds) -> dict[str, Array]:
        return {"y": np.sin(1000 * feeds["x"])}

    result = verified(function_pair(steep, lambda feeds: {"y": steep(feeds)["y"] + np.float32(error)}))
    (output,) = result.as_written.outputs
    assert output.rounding_error * 16 > output.tolerance == pytest.approx(100 * 1e-5)
    assert result.passed is passes


def test_the_original_is_moved_by_one_ulp_and_the_folded_is_not() -> None:
    pair = function_pair(doubled, doubled)
    verified(pair)
    assert isinstance(pair.original, FunctionSession)
    assert isinstance(pair.folded, FunctionSession)
    x, moved = (feeds["x"] for feeds in pair.original.fed[:2])
    assert np.all(np.abs(moved - x) == np.abs(np.nextafter(x, moved) - x))
    assert {int(sign) for sign in np.sign(moved - x).flat} == {-1, 1}
    alike = [len(session.fed) for session in (pair.original, pair.folded)]
    assert alike[0] - alike[1] == 2  # as many as there are batches


def test_progress_counts_samples() -> None:
    seen: list[tuple[int, int]] = []
    pair = function_pair(doubled, doubled)
    verify(pair, random_inputs(pair.original.inputs, samples=70), progress=lambda *step: seen.append(step))
    assert seen == [(32, 70), (64, 70), (70, 70)]


def test_inner_values_are_compared_without_a_verdict() -> None:
    def inner(error: float) -> Any:
        return lambda feeds: {"conv": feeds["x"] * np.float32(1 + error), "relu": np.maximum(feeds["x"], 0)}

    result = verified(function_pair(doubled, doubled), layers=function_pair(inner(0.0), inner(0.5)))
    assert result.passed
    assert [layer.name for layer in result.layers] == ["conv", "relu"]
    assert result.layers[0].relative_error == pytest.approx(0.5)
    assert result.layers[1].max_abs_error == 0


def test_the_label_names_both_runtimes_where_they_differ() -> None:
    pair = Pair(FunctionSession(doubled), FunctionSession(doubled, label="onnx.reference"))
    assert verified(pair).as_written.runtime == "NumPy against onnx.reference"


def doubled(feeds: Feeds) -> dict[str, Array]:
    return {"y": feeds["x"] * np.float32(2)}


def flat_sum(feeds: Feeds) -> dict[str, Array]:
    return {"y": feeds["x"].sum(axis=(1, 2))}


def images(count: int) -> DataSet:
    draw = np.random.default_rng(3)
    x = draw.integers(0, 256, (count, 28, 28), dtype=np.uint8)
    return DataSet("drawn", x, draw.integers(0, 10, count), "here", images=True)


def torch_modules(network: ConvBn, weight: Array, bias: Array) -> tuple[nn.Module, nn.Module]:
    """The network in float64 where ``weight`` is, else float32; and what it is with ``weight`` in its convolution."""
    dtype = torch.tensor(weight).dtype
    tail = [nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    original = nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8, eps=network.epsilon), *tail, nn.Linear(8, 10, bias=False)
    )
    folded = nn.Sequential(nn.Conv2d(1, 8, 3), nn.Identity(), *tail, nn.Linear(8, 10, bias=False))
    conv = {"0.weight": network.weight, "0.bias": network.bias}
    bn = {"weight": "gamma", "bias": "beta", "running_mean": "mean", "running_var": "variance"}
    norm = {f"1.{key}": getattr(network, name) for key, name in bn.items()} | {"1.num_batches_tracked": np.array(1)}
    linear = {"5.weight": network.linear.T.copy()}
    for module, parameters in (
        (original, conv | norm | linear),
        (folded, {"0.weight": weight, "0.bias": bias} | linear),
    ):
        module.to(dtype).eval().load_state_dict({name: torch.tensor(value) for name, value in parameters.items()})
    return original, folded


def torch_pair(original: nn.Module, folded: nn.Module, dtype: torch.dtype = torch.float32) -> Pair:
    example = torch.zeros(2, 1, 28, 28, dtype=dtype)
    return Pair(torch_eager.open_session(original, example), torch_eager.open_session(folded, example))
