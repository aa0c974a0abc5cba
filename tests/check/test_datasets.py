from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bnfold.check.datasets import dataset_inputs
from bnfold.check.inputs import Batch
from bnfold.check.scaling import ScalingOptions
from bnfold.data.dataset import DataSet
from bnfold.errors import InputError, UsageError
from bnfold.records import InputSpec
from bnfold.runtime.session import TensorSpec

PIXELS = np.arange(5 * 28 * 28).reshape(5, 28, 28).astype(np.uint8)
MNIST = DataSet("mnist", PIXELS, np.arange(5), "somewhere", images=True)


def spec(*shape: int | str | None, dtype: str = "float32") -> TensorSpec:
    return TensorSpec("x", dtype, shape)


def array(values: Any, labels: Any = None) -> DataSet:
    return DataSet("own.npz", np.asarray(values), labels, "own.npz", images=False)


def batches(model_input: TensorSpec, data: DataSet = MNIST, **options: Any) -> list[Batch]:
    return list(dataset_inputs([model_input], data, **options).batches())


@pytest.mark.parametrize(
    "shape",
    [("n", 3, 28, 28), ("n", 32, 32), ("n", 28 * 28 + 1), ("n", 1, 1, 28, 28), ("n",), ()],
    ids=str,
)
def test_images_that_do_not_fit_are_refused_with_what_would(shape: tuple[int | str, ...]) -> None:
    with pytest.raises(UsageError, match="N×1×28×28 or N×28×28 or N×28×28×1 or N×784"):
        batches(spec(*shape))


def test_several_inputs_are_refused() -> None:
    with pytest.raises(UsageError, match="the model has 2"):
        dataset_inputs([spec("n", 784), spec("n", 784)], MNIST)


def test_no_samples_are_refused() -> None:
    with pytest.raises(UsageError, match="no samples"):
        batches(spec("n", 3), array(np.zeros((0, 3))))


@pytest.mark.parametrize(
    ("data", "dtype", "options"),
    [
        pytest.param(MNIST, "uint8", {}, id="scaled pixels to integers"),
        pytest.param(array(np.ones((2, 784))), "int64", {}, id="floats to integers"),
        pytest.param(array(np.full((2, 784), "a")), "str", {}, id="text"),
        pytest.param(array(np.ones((2, 784), int)), "int64", {"scaling": ScalingOptions(scale=2)}, id="asked to scale"),
    ],
)
def test_values_that_would_lose_their_meaning_are_refused(data: DataSet, dtype: str, options: Any) -> None:
    with pytest.raises(UsageError, match=f"input 'x' is {dtype}"):
        batches(spec("n", 784, dtype=dtype), data, **options)


@pytest.mark.parametrize(
    "options",
    [{"scale": 0.0}, {"std": 0.0}, {"mean": float("nan")}, {"scale": float("inf")}],
    ids=str,
)
def test_numbers_that_make_no_scaling_are_refused(options: dict[str, float]) -> None:
    (name,) = options
    with pytest.raises(UsageError, match=f"--{name} "):
        batches(spec("n", 784), scaling=ScalingOptions(**options))


@pytest.mark.parametrize(
    "metadata",
    ["", "no json", "3", '"scale"', '{"scale": "wide"}', '{"scale": 0}', '{"mean": NaN}', '{"std": null}', "[" * 10**5],
    ids=lambda text: text[:20] or "empty",
)
def test_metadata_that_makes_no_scaling_is_an_unreadable_input(metadata: str) -> None:
    with pytest.raises(InputError, match=r"bnfold\.input"):
        batches(spec("n", 784), metadata=metadata)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        (("n", 1, 28, 28), (5, 1, 28, 28)),
        (("n", 28, 28), (5, 28, 28)),
        (("n", 28, 28, 1), (5, 28, 28, 1)),
        (("n", 784), (5, 784)),
        (("n", None, "h", "w"), (5, 1, 28, 28)),
        (("n", None, None, 1), (5, 28, 28, 1)),
        ((None, "features"), (5, 784)),
    ],
    ids=str,
)
def test_images_take_the_shape_of_the_models_input(shape: tuple[int | str, ...], expected: tuple[int, ...]) -> None:
    (batch,) = batches(spec(*shape))
    assert batch.feeds["x"].shape == expected
    assert np.array_equal(batch.feeds["x"].ravel(), (PIXELS / 255).astype(np.float32).ravel())


def test_an_unknown_rank_takes_images_with_a_channel() -> None:
    (batch,) = batches(TensorSpec("x", "float32", None))
    assert batch.feeds["x"].shape == (5, 1, 28, 28)


def test_the_users_sizes_decide_among_free_dimensions() -> None:
    (batch,) = batches(spec("n", None, None, None), sizes=[InputSpec((1, 28, 28, 1))])
    assert batch.feeds["x"].shape == (5, 28, 28, 1)


@pytest.mark.parametrize(
    ("options", "metadata", "expected"),
    [
        pytest.param({}, None, (255, 0, 1), id="convention"),
        pytest.param({}, "{}", (255, 0, 1), id="empty metadata"),
        pytest.param({}, '{"scale": 1, "mean": 33.3, "std": 78.6}', (1, 33.3, 78.6), id="metadata"),
        pytest.param({"mean": 0.5}, '{"scale": 1, "mean": 33.3}', (1, 0.5, 1), id="an option before metadata"),
        pytest.param({"scale": 1, "mean": 2, "std": 4}, "unreadable", (1, 2, 4), id="all options"),
    ],
)
def test_pixels_are_scaled_and_the_report_says_how(
    options: dict[str, float], metadata: str | None, expected: tuple[float, float, float]
) -> None:
    source = dataset_inputs([spec("n", 784)], MNIST, scaling=ScalingOptions(**options), metadata=metadata)
    record = source.record
    assert (record.scale, record.mean, record.std) == expected
    assert (record.name, record.samples, record.batch, record.labelled) == ("mnist", 5, 32, True)
    (batch,) = source.batches()
    scale, mean, std = expected
    wanted = ((PIXELS / scale - mean) / std).astype(np.float32)
    assert np.array_equal(batch.feeds["x"].ravel(), wanted.ravel())


def test_a_users_own_floats_are_fed_as_they_are() -> None:
    values = np.array([[300.0, -2.0]])
    source = dataset_inputs([spec("n", 2)], array(values), metadata='{"scale": 9}')
    (batch,) = source.batches()
    assert np.array_equal(batch.feeds["x"], values)
    assert batch.feeds["x"].dtype == np.float32
    assert batch.labels is None
    assert (source.record.scale, source.record.mean, source.record.std) == (None, None, None)


def test_a_users_own_floats_are_scaled_on_request() -> None:
    source = dataset_inputs([spec("n", 2)], array([[3.0, 5.0]]), scaling=ScalingOptions(mean=1, std=2))
    (batch,) = source.batches()
    assert batch.feeds["x"].tolist() == [[1, 2]]
    assert (source.record.scale, source.record.mean, source.record.std) == (1, 1, 2)


@pytest.mark.parametrize("dtype", ["int32", "float16", "bfloat16"])
def test_whole_numbers_reach_every_number_type(dtype: str) -> None:
    (batch,) = batches(spec("n", 2, dtype=dtype), array([[3, 5]]))
    assert batch.feeds["x"].dtype.name == dtype
    assert batch.feeds["x"].astype(float).tolist() == [[3, 5]]


def test_a_fixed_batch_is_filled_up_with_the_last_sample() -> None:
    first, last = batches(spec(3, 784), samples=5, batch=100)
    assert (first.samples, first.size) == (3, 3)
    assert (last.samples, last.size) == (2, 3)
    assert last.feeds["x"].shape == (3, 784)
    assert np.array_equal(last.feeds["x"][1], last.feeds["x"][2])
    assert last.labels is not None
    assert last.labels.tolist() == [3, 4]


def test_a_free_batch_ends_with_what_is_left() -> None:
    assert [len(batch.feeds["x"]) for batch in batches(spec("n", 784), samples=5, batch=2)] == [2, 2, 1]


@pytest.mark.parametrize(("asked", "used"), [(2, 2), (None, 5), (99, 5)])
def test_samples_are_the_first_and_no_more_than_there_are(asked: int | None, used: int) -> None:
    source = dataset_inputs([spec("n", 784)], MNIST, samples=asked)
    assert source.record.samples == used
    assert sum(batch.samples for batch in source.batches()) == used
