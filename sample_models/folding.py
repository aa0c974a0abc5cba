"""What folding does to a trained network, as lines of a table."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from torch import nn

import bnfold
from sample_models.figures import Figure, percent
from sample_models.training import pixels, predictions

if TYPE_CHECKING:
    from bnfold.data import DataSet


def folded(trained: nn.Module, test: DataSet) -> nn.Module:
    """The network with its BNs folded; it is recorded on two of the test images."""
    return cast("nn.Module", bnfold.fold(trained, inputs=pixels(test.x[:2])).model)


def batch_norms(module: nn.Module) -> int:
    """How many BNs are left in a module."""
    return sum(isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d) for part in module.modules())


def folding_rows(trained: nn.Module, test: DataSet) -> tuple[Figure, ...]:
    """The trained network's accuracy before and after, the predictions that changed, the BNs that are left."""
    after = folded(trained, test)
    before_classes, after_classes = predictions(trained, test.x), predictions(after, test.x)
    right = [percent((classes == test.y).mean()) for classes in (before_classes, after_classes)]
    return (
        Figure("the trained file, before and after folding", "", " → ".join(right)),
        *unchanged_rows((before_classes != after_classes).sum(), len(test), batch_norms(trained), batch_norms(after)),
    )


def unchanged_rows(flips: int, of: int, before: int, after: int) -> tuple[Figure, ...]:
    """How many predictions changed, and how many BNs there were and are."""
    return (
        Figure("predictions changed by folding", "", f"{flips} of {of:,}"),
        Figure("batch norms before and after", "", f"{before} → {after}"),
    )
