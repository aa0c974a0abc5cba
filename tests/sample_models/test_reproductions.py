"""Each network's ``reproduce`` on noise, with trainings cut to an epoch: the table and the curves are whole."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from training_listeners import Heard, Silent, noise

from sample_models import NETWORKS, Network, dense32, fcnet, sigmoid100
from sample_models.jobs import Job
from sample_models.repeats import repeat

TRAINED_ANEW = [network for network in NETWORKS if network.published and network.shipped]
CURVES = {
    "fcnet": [["with BN", "without BN"]] * 2,
    "threelayer": [["BN and dropout", "dropout", "BN", "neither"], ["BN", "dropout", "neither"]],
    "dense32": [["with BN", "without BN"]] * 2,
    "sigmoid100": [["with BN", "without BN"]],
}


@pytest.mark.parametrize("network", TRAINED_ANEW, ids=lambda network: network.name)
def test_table_and_curves_are_whole(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sample_models.repeats.SEEDS", 1)
    monkeypatch.setattr(fcnet, "SCALES", (1e-3, 1e-1))
    torch.manual_seed(0)
    module = network.build()
    module(torch.rand(8, 1, 28, 28))  # statistics other than 0 and 1

    figures = network.file().reproduce(module.eval(), noise(128), Job(noise(5_010), Silent(), epochs=1))

    rows = {row.what: row.ours for row in figures.rows}
    count = sum("BatchNorm" in type(part).__name__ for part in module.modules())
    assert rows["predictions changed by folding"] == "0 of 128"
    assert rows["batch norms before and after"] == f"{count} → 0"
    assert all(row.ours for row in figures.rows)
    assert [[curve.label for curve in chart.curves] for chart in figures.charts] == CURVES[network.name]
    assert all(len(curve.x) == len(curve.low) for chart in figures.charts for curve in chart.curves)


def test_repeats_have_a_seed_each_and_say_what_each_came_to() -> None:
    heard, jobs = Heard(), []

    def train(job: Job) -> float:
        jobs.append(job)
        return job.seed / 10

    runs = repeat("with BN", train, Job(noise(1), heard, seed=3))

    assert [job.seed for job in jobs] == [3, 4, 5, 6, 7]
    assert [run.accuracy for run in runs] == [0.3, 0.4, 0.5, 0.6, 0.7]
    assert [note.partition(",")[0] for note in heard.notes] == ["with BN"] * 5
    assert heard.notes[0].startswith("with BN, seed 3: test accuracy 0.3000, ")


def test_trainings_side_by_side_come_to_the_same_as_one_after_the_other() -> None:
    heard = Heard()
    train = partial(sigmoid100._accuracy, sigmoid100.sigmoid100, noise(16))
    job = Job(noise(5_010), heard, epochs=1)
    apart = repeat("with BN", train, job, side_by_side=True)
    before = repeat("with BN", train, job)
    assert [run.accuracy for run in apart] == [run.accuracy for run in before]
    assert [[epoch.number for epoch in run.epochs] for run in apart] == [[1]] * 5
    assert [note.partition(":")[0] for note in heard.notes] == [f"with BN, seed {seed}" for seed in range(5)] * 2


def test_bn_with_the_statistics_of_its_input_is_the_identity() -> None:
    torch.manual_seed(0)
    module = dense32.dense32()
    module(torch.rand(64, 1, 28, 28))

    assert dense32.identity_error(module.eval(), noise(16)) < 1e-6
