from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch.optim import SGD, Optimizer
from torch.optim import Adam as TorchAdam
from torch.optim import RMSprop as TorchRMSprop

from sample_models.jobs import Solver as Word
from sample_models.numpy_bn.solvers import SOLVERS, Adam, Momentum, RMSProp, Solver

PAIRS: list[tuple[Solver, Callable[[list[torch.Tensor]], Optimizer]]] = [
    (Momentum(0.9), lambda weights: SGD(weights, lr=0.05, momentum=0.9)),
    (SOLVERS[Word.GRADIENT_DESCENT](), lambda weights: SGD(weights, lr=0.05)),
    (RMSProp(), lambda weights: TorchRMSprop(weights, lr=0.05)),
    (Adam(), lambda weights: TorchAdam(weights, lr=0.05)),
]


@pytest.mark.parametrize(("ours", "make_theirs"), PAIRS, ids=["momentum", "descent", "rmsprop", "adam"])
def test_steps_are_pytorchs(ours: Solver, make_theirs: Callable[[list[torch.Tensor]], Optimizer]) -> None:
    random = np.random.default_rng(0)
    weights = {"first": random.standard_normal((3, 4)), "second": random.standard_normal(5)}
    tensors = [torch.from_numpy(weight.copy()).requires_grad_() for weight in weights.values()]
    theirs = make_theirs(tensors)

    for _ in range(20):
        gradients = {name: random.standard_normal(weight.shape) for name, weight in weights.items()}
        ours.step(weights, gradients, learning_rate=0.05)
        for tensor, gradient in zip(tensors, gradients.values(), strict=True):
            tensor.grad = torch.from_numpy(gradient)
        theirs.step()

    for weight, tensor in zip(weights.values(), tensors, strict=True):
        np.testing.assert_allclose(weight, tensor.detach().numpy(), rtol=0, atol=1e-12)


def test_every_word_of_a_recipe_has_a_solver_of_its_own_each_time() -> None:
    assert set(SOLVERS) == set(Word)
    assert all(SOLVERS[word]() is not SOLVERS[word]() for word in Word)
