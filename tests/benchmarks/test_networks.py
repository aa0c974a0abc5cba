from __future__ import annotations

from pathlib import Path

import pytest
import torch
from latency import RUNTIMES, Forms, forms, measure, require_agreement, verdict
from networks import copy_layers, resnet, tinycnn
from torch import nn

import bnfold
from bnfold.check.bench import Effort
from bnfold.check.statistics import Ratio

SMALL = ((1, 1), 4)


def batch_norms(module: nn.Module) -> int:
    return sum(isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d) for part in module.modules())


def test_layers_that_do_not_match_are_not_copied() -> None:
    with pytest.raises(RuntimeError, match="size mismatch"):
        copy_layers(tinycnn()[0], resnet(*SMALL)[1])


def test_another_network_is_not_timed() -> None:
    original, by_hand = resnet(*SMALL)
    example = torch.randn(2, 3, 32, 32)
    network = Forms("small", example, (original, by_hand, by_hand), ())
    with pytest.raises(SystemExit, match="small in PyTorch eager: outputs differ"):
        require_agreement(network, network.sessions("PyTorch eager"))


@pytest.mark.parametrize(
    ("ratio", "expected"),
    [
        (Ratio(1.03, 1.021, 1.04), "no"),
        (Ratio(1.03, 1.01, 1.05), "noise"),
        (Ratio(1.01, 0.99, 1.05), "yes"),
        (Ratio(0.9, 0.8, 0.95), "yes"),
    ],
    ids=["above the limit", "around the limit", "below in the middle", "faster"],
)
def test_what_a_ratio_says_about_the_limit(ratio: Ratio, expected: str) -> None:
    assert verdict(ratio) == expected


@pytest.mark.parametrize(
    ("networks", "image", "expected"),
    [(tinycnn(), (1, 28, 28), 2), (resnet(*SMALL), (3, 32, 32), 9)],
    ids=["tinycnn", "resnet"],
)
def test_folding_leaves_what_is_written_by_hand(
    tmp_path: Path, networks: tuple[nn.Module, nn.Module], image: tuple[int, int, int], expected: int
) -> None:
    assert batch_norms(networks[0]) == expected
    assert batch_norms(networks[1]) == 0
    network = forms("small", networks, image, tmp_path)
    assert batch_norms(network.modules[1]) == 0
    assert bnfold.inspect(network.onnx[0]).found == expected
    assert bnfold.verify(network.onnx[0], network.onnx[1]).passed
    for runtime in RUNTIMES:
        rows = measure(network, runtime, (1,), Effort(min_seconds=0, min_rounds=2))
        assert [row[:3] for row in rows] == [("small", runtime, "1")]
