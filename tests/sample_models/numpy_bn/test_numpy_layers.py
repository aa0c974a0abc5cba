from __future__ import annotations

import numpy as np
import pytest
import torch

from sample_models.numpy_bn.layers import Affine, BatchNorm, Dropout, ReLU, softmax_loss


def test_dropout_drops_its_share_and_keeps_the_mean() -> None:
    dropout, x = Dropout(0.3, np.random.default_rng(0)), np.ones((1000, 100))

    y = dropout.forward(x, training=True)

    assert (y == 0).mean() == pytest.approx(0.3, abs=0.01)
    assert y.mean() == pytest.approx(1, abs=0.01)
    np.testing.assert_array_equal(dropout.backward(x), y)


def test_dropout_does_nothing_in_test_mode() -> None:
    x = np.random.default_rng(0).standard_normal((4, 3))

    np.testing.assert_array_equal(Dropout(0.5, np.random.default_rng(0)).forward(x, training=False), x)


def test_relu_has_no_gradient_where_its_input_was_not_positive() -> None:
    relu = ReLU()
    relu.forward(np.array([[-1.0, 0.0, 2.0]]), training=True)

    np.testing.assert_array_equal(relu.backward(np.array([[5.0, 6.0, 7.0]])), [[0, 0, 7]])


def test_weights_have_the_scale_that_was_asked_for_and_biases_are_zero() -> None:
    affine = Affine((200, 300), 0.02, np.random.default_rng(0))

    assert affine.parameters["weight"].std() == pytest.approx(0.02, rel=0.02)
    assert not affine.parameters["bias"].any()


def test_batch_norm_moves_its_averages_in_training_only() -> None:
    bn, x = BatchNorm(2, 1e-5, 0.9), np.array([[1.0, 5.0], [3.0, 9.0]])

    bn.forward(x, training=False)
    before = bn.population
    bn.forward(x, training=True)

    np.testing.assert_array_equal(before.mean, [0, 0])
    np.testing.assert_allclose(bn.population.mean, [0.2, 0.7])
    np.testing.assert_allclose(bn.population.variance, [0.9 + 0.1, 0.9 + 0.4])
    assert bn.running()["num_batches_tracked"] == 1


def test_batch_norm_has_no_gradients_before_it_has_run() -> None:
    with pytest.raises(RuntimeError, match="before a forward pass"):
        BatchNorm(2, 1e-5, 0.9).backward(np.zeros((2, 2)))


@pytest.mark.parametrize("size", [1.0, 1e4], ids=["usual", "beyond exp"])
def test_softmax_loss_is_pytorchs(size: float) -> None:
    random = np.random.default_rng(0)
    logits, labels = size * random.standard_normal((6, 10)), random.integers(0, 10, 6)
    theirs = torch.from_numpy(logits).requires_grad_()
    wanted = torch.nn.functional.cross_entropy(theirs, torch.from_numpy(labels))
    (gradient,) = torch.autograd.grad(wanted, [theirs])

    loss, found = softmax_loss(logits, labels)

    assert loss == pytest.approx(wanted.item(), rel=1e-12)
    np.testing.assert_allclose(found, gradient.numpy(), rtol=0, atol=1e-12)
