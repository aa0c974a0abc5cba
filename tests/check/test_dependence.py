from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from checked_models import Array, FunctionSession, conv_bn, original_model
from torch import nn

from bnfold.check.dependence import batch_dependence
from bnfold.check.inputs import random_inputs
from bnfold.errors import InputError
from bnfold.records import BatchDependence
from bnfold.runtime import ort, torch_eager
from bnfold.runtime.session import Feeds, Session, TensorSpec

WEIGHT = np.random.default_rng(0).normal(size=(4, 5)).astype(np.float32)

BETA = np.array([0.2, 0, 0.1, 0, 0], np.float32)


def found(session: Session, samples: int = 200, batch: int = 32, **rounding_errors: float) -> BatchDependence | None:
    source = random_inputs(session.inputs, samples=samples, batch=batch)
    return batch_dependence("original", session, source, rounding_errors)


def dense(feeds: Feeds) -> dict[str, Array]:
    return {"y": feeds["x"] @ WEIGHT}


def normalised(feeds: Feeds) -> dict[str, Array]:
    """A batch norm with the statistics of the batch."""
    h = feeds["x"] @ WEIGHT
    return {"y": (h - h.mean(axis=0)) / np.sqrt(h.var(axis=0) + 1e-3) + BETA}


# Where nothing depends, nothing is said


def rounds_otherwise_elsewhere(feeds: Feeds) -> dict[str, Array]:
    """Another last bit at another place of the batch."""
    y = feeds["x"] @ WEIGHT
    return {"y": y * (1 + 1e-6 * np.arange(len(y), dtype=np.float32)[:, None] % 3)}


def random(feeds: Feeds) -> dict[str, Array]:
    return {"y": np.random.default_rng().normal(size=(len(feeds["x"]), 5)).astype(np.float32)}


def broken(feeds: Feeds) -> dict[str, Array]:
    y = feeds["x"] @ WEIGHT
    y[:, 2] = np.nan
    return {"y": y}


def of_the_whole_batch(feeds: Feeds) -> dict[str, Array]:
    return {"y": feeds["x"].mean(axis=0), "loss": feeds["x"].sum()}


def classes(feeds: Feeds) -> dict[str, Array]:
    """Whole numbers: rounding may flip a class."""
    return {"y": np.arange(len(feeds["x"]))}


INDEPENDENT = [dense, rounds_otherwise_elsewhere, random, broken, of_the_whole_batch, classes]


@pytest.mark.parametrize("function", INDEPENDENT)
def test_a_model_without_batch_statistics_gives_no_alarm(function: Callable[[Feeds], dict[str, Array]]) -> None:
    assert found(FunctionSession(function)) is None


def test_real_networks_give_no_alarm() -> None:
    torch.manual_seed(0)
    deep = [part for _ in range(30) for part in (nn.Linear(64, 64), nn.BatchNorm1d(64), nn.ReLU())]
    module = nn.Sequential(*deep).eval()
    assert found(torch_eager.open_session(module, torch.zeros(2, 64))) is None
    assert found(ort.open_session(original_model(conv_bn()), optimise=False)) is None


def test_one_sample_has_no_company() -> None:
    session = FunctionSession(normalised)
    assert found(session, samples=1) is None
    assert found(FunctionSession(normalised, inputs=(TensorSpec("x", "float32", (1, 4)),))) is None


def test_a_model_that_takes_no_such_batches_is_not_judged() -> None:
    def picky(feeds: Feeds) -> dict[str, Array]:
        if len(feeds["x"]) != 32:
            raise InputError("32 samples, please")
        return normalised(feeds)

    assert found(FunctionSession(picky)) is None


def test_looking_is_cheap() -> None:
    session = FunctionSession(dense)
    found(session, samples=10_000, batch=1000)
    assert [len(feeds["x"]) for feeds in session.fed] == [8, 8, 8]


# Where it does, it is shown


@pytest.mark.parametrize("batch", [1, 7, 32, 200])
def test_batch_statistics_are_shown_on_a_hundred_samples(batch: int) -> None:
    dependence = found(FunctionSession(normalised), batch=batch)
    assert dependence is not None
    assert (dependence.model, dependence.output, dependence.samples) == ("original", "y", 100)
    assert dependence.relative_difference > 0.5
    assert (dependence.agreeing, dependence.distinct_alone, dependence.distinct_together) == (_agreeing(), 1, 5)


def _agreeing() -> int:
    """Alone every output is β, and the first class wins; together it wins where it is the largest."""
    session = FunctionSession(normalised)
    (batch,) = random_inputs(session.inputs, samples=100, batch=100).batches()
    return int((normalised(batch.feeds)["y"].argmax(axis=1) == 0).sum())


def test_a_model_that_does_not_run_on_one_sample_is_shown_with_two_copies() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6, track_running_stats=False), nn.Linear(6, 3))
    dependence = found(torch_eager.open_session(module, torch.zeros(2, 4)))
    assert dependence is not None
    assert (dependence.output, dependence.samples, dependence.distinct_alone) == ("output", 100, 1)


def test_a_fixed_batch_is_filled_with_copies() -> None:
    session = FunctionSession(normalised, inputs=(TensorSpec("x", "float32", (6, 4)),))
    dependence = found(session)
    assert dependence is not None
    assert {len(feeds["x"]) for feeds in session.fed} == {6}
    assert (dependence.samples, dependence.distinct_alone) == (100, 1)


def test_fewer_samples_are_counted() -> None:
    dependence = found(FunctionSession(normalised), samples=9)
    assert dependence is not None
    assert dependence.samples == 9


def test_without_scores_there_are_no_predictions_to_compare() -> None:
    def one_number(feeds: Feeds) -> dict[str, Array]:
        return {"y": normalised(feeds)["y"][:, 0]}

    dependence = found(FunctionSession(one_number))
    assert dependence is not None
    assert (dependence.agreeing, dependence.distinct_alone, dependence.distinct_together) == (None, None, None)


def test_nan_only_in_company_is_a_dependence() -> None:
    def spoilt(feeds: Feeds) -> dict[str, Array]:
        y = feeds["x"] @ WEIGHT
        return {"y": y + np.where(np.unique(feeds["x"][:, 0]).size > 1, np.float32(np.nan), np.float32(0))}

    dependence = found(FunctionSession(spoilt))
    assert dependence is not None
    assert dependence.relative_difference == np.inf


def test_inputs_without_a_batch_are_fed_as_they_are() -> None:
    specs: Any = (TensorSpec("x", "float32", ("n", 4)), TensorSpec("scale", "float32", ()))

    def scaled(feeds: Feeds) -> dict[str, Array]:
        return {"y": normalised(feeds)["y"] * (1 + feeds["scale"] ** 2)}

    dependence = found(FunctionSession(scaled, inputs=specs))
    assert dependence is not None
    assert dependence.distinct_alone == 1
