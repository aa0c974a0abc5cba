from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from bnfold.check.inputs import Batch, Source, random_inputs
from bnfold.errors import InputError, UsageError
from bnfold.records import DataRecord, InputSpec
from bnfold.runtime.session import TensorSpec

IMAGE = TensorSpec("image", "float32", ("n", 3, "height", "width"))


def gathered(source: Source, name: str = "x") -> np.ndarray:
    return np.concatenate([batch.feeds[name][: batch.samples] for batch in source.batches()])


@pytest.mark.parametrize(
    ("spec", "sizes", "message"),
    [
        pytest.param(IMAGE, (), r"'image' is known: nx3xheightxwidth\n.*--input image=1x3xheightxwidth", id="symbols"),
        pytest.param(TensorSpec("x", "float32", ("n", None)), (), "--input x=1x", id="unknown"),
        pytest.param(TensorSpec("x", "float32", None), (), "--input x=1x3x224x224", id="rank"),
        pytest.param(IMAGE, (InputSpec((1, 3, 8)),), "--input 1x3x8 does not fit", id="other rank"),
        pytest.param(IMAGE, (InputSpec((1, 4, 8, 8)),), "does not fit input 'image'", id="other size"),
        pytest.param(IMAGE, (InputSpec((1, 3, 8, 8), name="picture"),), "'picture'\n.*'image'", id="other name"),
        pytest.param(IMAGE, (InputSpec((1, 3, 8, 8)),) * 2, "more often than the model has inputs", id="too many"),
    ],
)
def test_sizes_that_are_missing_or_wrong_are_named(
    spec: TensorSpec, sizes: tuple[InputSpec, ...], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        random_inputs([spec], sizes=sizes)


@pytest.mark.parametrize(("samples", "batch"), [(0, 1), (1, 0), (-1, 1)])
def test_counts_below_one_are_refused(samples: int, batch: int) -> None:
    with pytest.raises(UsageError, match="at least one"):
        random_inputs([IMAGE], samples=samples, batch=batch)


@pytest.mark.parametrize("dtype", ["str", "complex64"])
def test_types_without_random_values_are_refused(dtype: str) -> None:
    with pytest.raises(InputError, match=dtype):
        random_inputs([TensorSpec("x", dtype, ("n",))])


def test_random_inputs_are_the_same_at_every_time_and_batch_size() -> None:
    specs = [TensorSpec("x", "float32", ("n", 3)), TensorSpec("z", "float32", ("n", 5))]
    first = gathered(random_inputs(specs, samples=10, batch=4))
    assert np.array_equal(first, gathered(random_inputs(specs, samples=10, batch=3)))
    assert not np.array_equal(first, gathered(random_inputs(specs, samples=10, seed=1)))
    assert len(first) == 10


def test_a_source_can_be_passed_over_again() -> None:
    source = random_inputs([TensorSpec("x", "float32", ("n", 3))])
    assert np.array_equal(gathered(source), gathered(source))


@pytest.mark.parametrize(
    ("dtype", "kinds"),
    [("float32", "f"), ("float16", "f"), ("float64", "f"), ("int64", "i"), ("uint8", "u"), ("bool", "b")],
)
def test_random_values_suit_their_type(dtype: str, kinds: str) -> None:
    values = gathered(random_inputs([TensorSpec("x", dtype, ("n", 50))]))
    assert values.dtype == dtype
    assert values.dtype.kind in kinds
    if kinds == "f":
        assert abs(values.mean()) < 0.1
        assert 0.9 < values.std() < 1.1
    else:
        assert set(np.unique(values)) == {0, 1}


def test_bfloat16_is_drawn_too() -> None:
    values = gathered(random_inputs([TensorSpec("x", "bfloat16", ("n", 50))]))
    assert values.dtype.name == "bfloat16"


def test_the_users_sizes_fill_in_and_a_symbol_is_shared() -> None:
    mask = TensorSpec("mask", "bool", ("n", "height", "width"))
    (batch,) = random_inputs([IMAGE, mask], samples=2, sizes=[InputSpec((9, 3, 8, 6))], batch=2).batches()
    assert {name: array.shape for name, array in batch.feeds.items()} == {"image": (2, 3, 8, 6), "mask": (2, 8, 6)}


def test_sizes_go_to_their_names_and_the_others_in_order() -> None:
    specs = [TensorSpec(name, "float32", ("n", None)) for name in ("a", "b", "c")]
    sizes = [InputSpec((1, 2)), InputSpec((1, 7), name="a"), InputSpec((1, 3))]
    (batch,) = random_inputs(specs, samples=1, batch=1, sizes=sizes).batches()
    assert [array.shape for array in batch.feeds.values()] == [(1, 7), (1, 2), (1, 3)]


def test_an_unknown_rank_takes_the_users_shape() -> None:
    (batch,) = random_inputs(
        [TensorSpec("x", "float32", None)], samples=2, batch=2, sizes=[InputSpec((1, 5))]
    ).batches()
    assert batch.feeds["x"].shape == (2, 5)


def test_a_fixed_batch_goes_before_the_one_asked_for() -> None:
    source = random_inputs([TensorSpec("x", "float32", (4, 3))], samples=10, batch=32)
    assert source.record == DataRecord("random", 10, 4, labelled=False, seed=0)
    assert [(batch.samples, batch.size, batch.feeds["x"].shape) for batch in source.batches()] == [
        (4, 4, (4, 3)),
        (4, 4, (4, 3)),
        (2, 4, (4, 3)),
    ]


def test_a_fixed_side_input_does_not_fix_the_batch() -> None:
    specs = [
        TensorSpec("x", "float32", ("n", 3)),
        TensorSpec("anchors", "float32", (5, 4)),
        TensorSpec("t", "int64", ()),
    ]
    (batch,) = random_inputs(specs, samples=2, batch=2).batches()
    assert [array.shape for array in batch.feeds.values()] == [(2, 3), (5, 4), ()]


def test_outputs_lose_the_rows_that_only_fill_up() -> None:
    batch = Batch({}, samples=2, size=4)
    trimmed = batch.trimmed({"rows": np.zeros((4, 3)), "whole": np.zeros((3, 4)), "scalar": np.zeros(())})
    assert {name: array.shape for name, array in trimmed.items()} == {"rows": (2, 3), "whole": (3, 4), "scalar": ()}


def test_memory_does_not_grow_with_the_number_of_samples() -> None:
    source = random_inputs([TensorSpec("x", "float32", ("n", 1000))], samples=3200)
    tracemalloc.start()
    for batch in source.batches():
        assert len(batch.feeds["x"]) == 32
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak_bytes < 3200 * 1000 * 4 / 4
