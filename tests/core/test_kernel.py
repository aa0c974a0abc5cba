"""The two laws: what a layer with a batch norm after it, or before it, computes is what the folded layer computes.

The judge is PyTorch's own layers and batch norm in float64, fed with the values as stored.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from small_views import constant, view
from torch.nn import functional

from bnfold.core import rounding
from bnfold.core.affine import Affine, from_statistics
from bnfold.core.kernel import Kernel, fits, output_channels
from bnfold.core.rounding import LARGEST
from bnfold.core.steps import Side, Step
from bnfold.core.traits import LayerTraits
from bnfold.core.verdict import Edit

EPSILON = 1e-5
MACHINE_EPSILON = {"float64": 2.0**-53, "float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}
"""Half the distance from 1 to its neighbour: the relative error of one rounding."""


@dataclass(frozen=True)
class Layer:
    """A layer to test: how it is stored, and the framework's word for it."""

    groups: int
    outputs: int
    inputs: int
    kernel: tuple[int, ...]
    transposed: bool
    has_bias: bool
    dtype: str
    seed: int

    @property
    def traits(self) -> LayerTraits:
        return LayerTraits(groups=self.groups, inputs_first=self.transposed)

    @property
    def stored_shape(self) -> tuple[int, ...]:
        if self.transposed:
            return (self.groups * self.inputs, self.outputs, *self.kernel)
        return (self.groups * self.outputs, self.inputs, *self.kernel)

    @property
    def fan_in(self) -> int:
        return self.inputs * math.prod(self.kernel)

    def run(self, x: torch.Tensor, weight: NDArray[Any], bias: NDArray[Any] | None) -> torch.Tensor:
        w = torch.from_numpy(weight)
        b = None if bias is None else torch.from_numpy(bias)
        if not self.kernel:
            return functional.linear(x, w.T if self.transposed else w, b)
        name = f"conv_transpose{len(self.kernel)}d" if self.transposed else f"conv{len(self.kernel)}d"
        result: torch.Tensor = getattr(functional, name)(x, w, b, groups=self.groups)
        return result


@st.composite
def layers(draw: st.DrawFn, *, may_be_transposed: bool = True) -> Layer:
    kernel = tuple(draw(st.lists(st.integers(1, 3), max_size=3)))
    return Layer(
        groups=draw(st.integers(1, 3)) if kernel else 1,
        outputs=draw(st.integers(1, 4)),
        inputs=draw(st.integers(1, 4)),
        kernel=kernel,
        transposed=may_be_transposed and draw(st.booleans()),
        has_bias=draw(st.booleans()),
        dtype=draw(st.sampled_from(sorted(MACHINE_EPSILON))),
        seed=draw(st.integers(0, 2**32 - 1)),
    )


def as_stored(values: NDArray[np.float64], dtype: str) -> NDArray[Any]:
    """Values that the dtype can hold, widened to float64."""
    return values.astype(getattr(ml_dtypes, dtype, dtype)).astype(np.float64)


def widened(stored: NDArray[Any], dtype: str) -> NDArray[np.float64]:
    """What ``Kernel.stored`` gave, in float64."""
    return (stored.view(ml_dtypes.bfloat16) if dtype == "bfloat16" else stored).astype(np.float64)


Parameters = tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]


def statistics(rng: np.random.Generator, channels: int) -> Parameters:
    """γ, β, μ, σ² far from identity, γ of both signs."""
    return (
        rng.normal(0, 2, channels),
        rng.normal(0, 3, channels),
        rng.normal(0, 3, channels),
        rng.uniform(0.05, 9, channels),
    )


def framework_batch_norm(x: torch.Tensor, parameters: Parameters) -> torch.Tensor:
    gamma, beta, mean, variance = map(torch.from_numpy, parameters)
    return functional.batch_norm(x, mean, variance, gamma, beta, training=False, eps=EPSILON)


def case_of(layer: Layer) -> tuple[np.random.Generator, NDArray[Any], NDArray[Any] | None, torch.Tensor]:
    rng = np.random.default_rng(layer.seed)
    weight = as_stored(rng.normal(size=layer.stored_shape), layer.dtype)
    bias = as_stored(rng.normal(size=layer.groups * layer.outputs), layer.dtype) if layer.has_bias else None
    size = (2, layer.groups * layer.inputs, *(extent + 2 for extent in layer.kernel))
    return rng, weight, bias, torch.from_numpy(rng.normal(size=size))


def assert_close(actual: torch.Tensor, expected: torch.Tensor, layer: Layer, x: torch.Tensor, scale: float) -> None:
    """Every weight and the bias were rounded once: their errors add up at most over the fan-in."""
    largest = max(1.0, float(x.abs().max())) * scale * (layer.fan_in + 1) * 8
    tolerance = 2 * MACHINE_EPSILON[layer.dtype] * largest
    assert (actual - expected).abs().max().item() <= tolerance


@given(layers())
def test_a_batch_norm_after_a_layer(layer: Layer) -> None:
    rng, weight, bias, x = case_of(layer)
    parameters = statistics(rng, layer.groups * layer.outputs)
    affine = from_statistics(*parameters, EPSILON)

    folded = Kernel.of(weight, bias, layer.traits).scale_outputs(affine)
    new_weight, new_bias = folded.stored(layer.dtype, layer.dtype)

    assert new_weight.shape == layer.stored_shape
    assert new_bias is not None
    expected = framework_batch_norm(layer.run(x, weight, bias), parameters)
    actual = layer.run(x, widened(new_weight, layer.dtype), widened(new_bias, layer.dtype))
    magnitude = float(np.abs(affine.scale).max() * np.abs(weight).max() + np.abs(affine.shift).max() + 1)
    assert_close(actual, expected, layer, x, magnitude)


@given(layers(may_be_transposed=False))
def test_a_batch_norm_before_an_unpadded_layer(layer: Layer) -> None:
    rng, weight, bias, x = case_of(layer)
    parameters = statistics(rng, layer.groups * layer.inputs)
    affine = from_statistics(*parameters, EPSILON)

    folded = Kernel.of(weight, bias, layer.traits).absorb_inputs(affine)
    new_weight, new_bias = folded.stored(layer.dtype, layer.dtype)

    assert new_bias is not None
    expected = layer.run(framework_batch_norm(x, parameters), weight, bias)
    actual = layer.run(x, widened(new_weight, layer.dtype), widened(new_bias, layer.dtype))
    magnitude = float((np.abs(affine.scale).max() + np.abs(affine.shift).max() + 1) * (np.abs(weight).max() + 1))
    assert_close(actual, expected, layer, x, magnitude)


@given(layers(), st.sampled_from(["float32", "float16"]))
def test_every_value_is_the_exact_float64_fold_rounded_once(layer: Layer, dtype: str) -> None:
    rng = np.random.default_rng(layer.seed)
    weight = rng.normal(size=layer.stored_shape).astype(dtype)
    bias = rng.normal(size=layer.groups * layer.outputs).astype(dtype)
    gamma, beta, mean, variance = statistics(rng, layer.groups * layer.outputs)
    scale = gamma / np.sqrt(variance + EPSILON)
    channel = np.arange(layer.groups * layer.outputs).reshape(layer.groups, layer.outputs)

    kernel = Kernel.of(weight, bias, layer.traits)
    folded = kernel.scale_outputs(from_statistics(gamma, beta, mean, variance, EPSILON))
    new_weight, new_bias = folded.stored(dtype, dtype)

    for position in np.ndindex(*layer.stored_shape):
        output = channel[position[0] // layer.inputs, position[1]] if layer.transposed else position[0]
        assert new_weight[position] == (np.float64(weight[position]) * scale[output]).astype(dtype)
    assert new_bias is not None
    assert np.array_equal(new_bias, (bias.astype(np.float64) * scale + (beta - mean * scale)).astype(dtype))


@given(layers(), st.booleans(), st.integers(1, 200))
def test_a_weight_in_pieces_is_the_weight(layer: Layer, from_below: bool, piece_bytes: int) -> None:  # noqa: FBT001 - drawn
    rng, weight, bias, _ = case_of(layer)
    kernel = Kernel.of(weight, bias, layer.traits)
    channels = layer.groups * (layer.inputs if from_below else layer.outputs)
    affine = from_statistics(*statistics(rng, channels), EPSILON)
    folded = kernel.absorb_inputs(affine) if from_below else kernel.scale_outputs(affine)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rounding, "PIECE_BYTES", piece_bytes)
        pieces = [piece.reshape(-1) for piece in folded.stored_pieces(layer.dtype)]
    assert np.array_equal(np.concatenate(pieces), folded.stored_weight(layer.dtype).reshape(-1))


def test_a_bias_of_one_number_stands_for_all_channels() -> None:
    kernel = Kernel.of(np.ones((3, 2)), np.array(2.0), LayerTraits(bias_gain=0.5))
    assert kernel.bias is not None
    assert kernel.bias.tolist() == [1.0, 1.0, 1.0]


def test_a_row_of_bias_per_sample_keeps_its_rows() -> None:
    kernel = Kernel.of(np.ones((3, 2)), np.arange(12.0).reshape(4, 3), LayerTraits())
    folded = kernel.scale_outputs(Affine(np.array([1.0, 2.0, 3.0]), np.array([0.0, 0.0, 1.0])))
    assert folded.bias is not None
    assert folded.bias.tolist() == [[0, 2, 7], [3, 8, 16], [6, 14, 25], [9, 20, 34]]


def test_gain_counts_once_when_a_shift_comes_from_below() -> None:
    traits = LayerTraits(gain=0.5)
    folded = Kernel.of(np.array([[2.0]]), None, traits).absorb_inputs(Affine(np.array([3.0]), np.array([10.0])))
    assert folded.weight.tolist() == [[[[6.0]]]]  # stored: the layer multiplies by its gain itself
    assert folded.bias is not None
    assert folded.bias.tolist() == [10.0]


@pytest.mark.parametrize(
    ("traits", "shape", "channels"),
    [
        pytest.param(LayerTraits(groups=2), (6, 3, 5), 6, id="conv"),
        pytest.param(LayerTraits(groups=2, inputs_first=True), (6, 3, 5), 6, id="transposed, two groups of three"),
        pytest.param(LayerTraits(inputs_first=True), (4, 7), 7, id="matrix on the right"),
    ],
)
def test_output_channels(traits: LayerTraits, shape: tuple[int, ...], channels: int) -> None:
    assert output_channels(traits, shape) == channels


def conv_that_takes(weight: Any, bias: Any, dtype: str, affine: Affine, side: Side = Side.OUTPUTS) -> bool:
    small = view(
        "x conv bn out",
        conv_weight=constant("w", np.asarray(weight), dtype),
        conv_bias=constant("b", np.asarray(bias), dtype),
    )
    conv = small.nodes[0]
    return fits(small, conv, Edit(conv, (Step(side, affine),)).steps)


@pytest.mark.parametrize("dtype", LARGEST)
def test_a_value_beyond_the_dtype_is_noticed(dtype: str) -> None:
    numpy_dtype = "float32" if dtype == "bfloat16" else dtype
    weight = np.array([[[[1.0]]], [[[LARGEST[dtype] / 4]]]], numpy_dtype)
    bias = np.zeros(2, numpy_dtype)
    assert conv_that_takes(weight, bias, dtype, Affine(np.array([1.0, 4.0]), np.zeros(2)))
    assert not conv_that_takes(weight, bias, dtype, Affine(np.array([1.0, 8.0]), np.zeros(2)))


@pytest.mark.parametrize("value", [3e38, -3e38], ids=["positive", "negative"])
@pytest.mark.parametrize("channel", range(5))
def test_a_value_beyond_the_dtype_is_noticed_wherever_it_lies_in_a_large_weight(
    monkeypatch: pytest.MonkeyPatch, channel: int, value: float
) -> None:
    monkeypatch.setattr("bnfold.core.kernel.PIECE_BYTES", 8)
    weight = np.ones((5, 1, 1, 1), np.float32)
    weight[channel] = value
    assert conv_that_takes(weight, np.zeros(5, np.float32), "float32", Affine(np.ones(5), np.zeros(5)))
    assert not conv_that_takes(weight, np.zeros(5, np.float32), "float32", Affine(np.full(5, 2.0), np.zeros(5)))


@pytest.mark.parametrize(("value", "scale"), [(1e-30, 1e68), (1e30, 1e8)], ids=["vanish", "leave the range"])
def test_a_value_beyond_the_dtype_is_noticed_also_where_squares(value: float, scale: float) -> None:
    weight, bias = np.full((2, 1, 1, 1), value, np.float32), np.zeros(2, np.float32)
    assert conv_that_takes(weight, bias, "float32", Affine(np.full(2, scale), np.zeros(2)))
    assert not conv_that_takes(weight, bias, "float32", Affine(np.array([1.0, 10 * scale]), np.zeros(2)))


def test_a_bias_beyond_the_dtype_is_noticed() -> None:
    weight, bias = np.ones((2, 1, 1, 1), np.float16), np.zeros(2, np.float16)
    assert not conv_that_takes(weight, bias, "float16", Affine(np.ones(2), np.array([0.0, 7e4])))
    assert not conv_that_takes(weight, bias, "float16", Affine(np.ones(1), np.array([7e4])), Side.INPUTS)


def test_large_weights_in_channels_with_small_scales_fit() -> None:
    weight = np.array([[[[6e4]]], [[[1e-3]]]], np.float16)
    affine = Affine(np.array([1e-3, 100.0]), np.zeros(2))
    assert conv_that_takes(weight, np.zeros(2, np.float16), "float16", affine)


def test_a_weight_that_is_not_finite_already_does_not_forbid_the_fold() -> None:
    weight = np.array([[[[np.nan]]], [[[1.0]]]], np.float32)
    affine = Affine(np.array([2.0, 2.0]), np.zeros(2))
    assert conv_that_takes(weight, np.zeros(2, np.float32), "float32", affine)
    assert not conv_that_takes(weight, np.zeros(2, np.float32), "float32", Affine(np.array([2.0, 1e39]), np.zeros(2)))
