from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from training_listeners import Heard, bright_or_dark

from bnfold.data import DataSet
from sample_models.jobs import Job, Phase, Recipe, labels_of
from sample_models.training import accuracy, fit, pixels, predictions

RECIPE = Recipe(phases=(Phase(2, 0.05), Phase(1, 0.001)), batch=32, validation=40)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2))


def test_data_without_labels_is_refused() -> None:
    with pytest.raises(ValueError, match="halves has no labels"):
        fit(network(), RECIPE, Job(bright_or_dark(labelled=False), Heard()))


def test_pixels_become_one_channel_from_0_to_1() -> None:
    images = pixels(bright_or_dark().x[:2])

    assert images.shape == (2, 1, 28, 28)
    assert images.dtype == torch.float32
    assert set(images.flatten().tolist()) == {0, 1}


def test_training_learns_and_says_how_far_it_is() -> None:
    module, data, heard = network(), bright_or_dark(), Heard()

    fit(module, RECIPE, Job(data, heard))

    assert [(epoch.number, epoch.of, epoch.learning_rate) for epoch in heard.epochs] == [
        (1, 3, 0.05),
        (2, 3, 0.05),
        (3, 3, 0.001),
    ]
    assert heard.steps == [(done, 5) for _ in range(3) for done in range(1, 6)]
    assert heard.epochs[-1].loss < heard.epochs[0].loss
    assert heard.epochs[-1].validation_accuracy == accuracy(module, data.x, labels_of(data)) == 1.0
    assert not module.training


def test_epochs_end_the_training_early() -> None:
    heard = Heard()

    fit(network(), RECIPE, Job(bright_or_dark(), heard, epochs=1))

    assert [(epoch.number, epoch.of) for epoch in heard.epochs] == [(1, 1)]


def test_validation_images_are_not_trained_on() -> None:
    data = bright_or_dark()
    spoiled = DataSet(name="spoiled", x=data.x.copy(), y=data.y, origin="generated", images=True)
    spoiled.x[: RECIPE.validation] = 77
    first, second = network(), network()

    fit(first, RECIPE, Job(data, Heard(), epochs=1))
    fit(second, RECIPE, Job(spoiled, Heard(), epochs=1))

    assert all(torch.equal(ours, theirs) for ours, theirs in zip(first.parameters(), second.parameters(), strict=True))


@pytest.mark.parametrize(("seed", "same"), [(0, True), (1, False)], ids=["same-seed", "other-seed"])
def test_seed_decides_the_weights(seed: int, *, same: bool) -> None:
    first, second = network(), network()

    fit(first, RECIPE, Job(bright_or_dark(), Heard(), seed=0))
    fit(second, RECIPE, Job(bright_or_dark(), Heard(), seed=seed))

    assert torch.equal(next(first.parameters()), next(second.parameters())) is same


def test_predictions_do_not_depend_on_the_batch_they_are_made_in() -> None:
    module, images = network(), np.random.default_rng(0).integers(0, 256, (1001, 28, 28), np.uint8)

    together = predictions(module, images)

    assert together.shape == (1001,)
    assert together[-1] == predictions(module, images[-1:])[0]
