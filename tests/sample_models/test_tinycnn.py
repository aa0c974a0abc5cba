from __future__ import annotations

import pytest
import torch
from torch import nn
from training_listeners import Silent, noise

from sample_models import tinycnn
from sample_models.jobs import Job, Phase, Recipe
from sample_models.tinycnn import TinyCNN


def test_network_is_the_published_one() -> None:
    module = tinycnn.tinycnn().eval()
    shapes = {name: tuple(parameter.shape) for name, parameter in module.named_parameters()}

    assert shapes == {
        "conv.weight": (20, 1, 5, 5),
        "conv.bias": (20,),
        "conv_bn.weight": (20,),
        "conv_bn.bias": (20,),
        "dense.weight": (1000, 15680),
        "dense.bias": (1000,),
        "dense_bn.weight": (1000,),
        "dense_bn.bias": (1000,),
        "logits.weight": (10, 1000),
        "logits.bias": (10,),
    }
    assert [part.eps for part in module.modules() if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d)] == [1e-3, 1e-3]
    assert module(torch.zeros(3, 1, 28, 28)).shape == (3, 10)
    recipe = tinycnn.RECIPE
    assert recipe == Recipe(phases=(Phase(5, 0.01), Phase(5, 0.002)), batch=128, validation=5_000)


def test_network_without_bn_keeps_the_names_of_what_remains() -> None:
    full, bare = TinyCNN().state_dict(), TinyCNN(batch_norm=False).state_dict()

    assert {name for name in full if "_bn." not in name} == set(bare)


def test_mean_of_the_images_trained_on_is_subtracted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tinycnn, "RECIPE", Recipe(phases=(Phase(1, 0.01),), batch=16, validation=8))
    data = noise(24)

    module = tinycnn.train(Job(data, Silent()))

    assert module.mean.item() == pytest.approx(data.x[8:].mean() / 255)
    module.mean += 0.25
    shifted = module(torch.full((1, 1, 28, 28), 0.75))
    module.mean -= 0.25
    torch.testing.assert_close(module(torch.full((1, 1, 28, 28), 0.5)), shifted)


def test_reproduced_table_folds_both_bns_with_the_same_predictions() -> None:
    torch.manual_seed(0)
    module, data = tinycnn.tinycnn(), noise(64)
    module(torch.rand(32, 1, 28, 28))  # statistics other than 0 and 1
    figures = tinycnn.reproduce(module.eval(), data, Job(data, Silent()), rounds=1)
    found = {row.what: (row.published, row.ours) for row in figures.rows}

    assert found["with BN"][0] == found["without BN, weights folded"][0] == "99.02 %"
    assert found["with BN"][1] == found["without BN, weights folded"][1]
    assert found["without BN, weights not folded"][0] == "68.54 %"
    assert found["without BN, untrained"][0] == "13.6 %"
    assert found["predictions changed by folding"] == ("", "0 of 64")
    assert found["batch norms before and after"] == ("", "2 → 0")
    assert found["time for 1,000 images"][0] == "48.1 → 38.2 ms"
