"""Whole networks of NumPy layers beside PyTorch's in float64: loss, gradients, training, test mode, files."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from torch import nn
from torch.optim import Adam as TorchAdam
from training_listeners import Heard, bright_or_dark

from sample_models.dense import export_by_hand, from_numpy, in_torch
from sample_models.jobs import Job, Phase, Recipe, labels_of
from sample_models.numpy_bn.export import Product
from sample_models.numpy_bn.layers import Dropout
from sample_models.numpy_bn.network import Network, Shape, fully_connected
from sample_models.numpy_bn.solvers import Adam
from sample_models.numpy_bn.training import accuracy, fit

SHAPES = {
    "fcnet": Shape(hidden=(100,) * 5, epsilon=1e-5),
    "threelayer": Shape(hidden=(256, 256), epsilon=1e-8, dropout=0.5),
    "without BN": Shape(hidden=(30,), epsilon=None),
}
AGREEMENT = 1e-10


class Masked(nn.Module):
    """Dropout with the factors that another one has drawn."""

    def __init__(self, source: Dropout) -> None:
        super().__init__()
        self.source = source

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * torch.from_numpy(self.source.factors) if self.training else x


def pair(shape: Shape) -> tuple[Network, nn.Sequential]:
    """The same network twice, in float64, with the same weights and the same values dropped."""
    network = fully_connected(shape, lambda inputs: (2 / inputs) ** 0.5, seed=0)
    module = in_torch(shape).double()
    module.load_state_dict({name: torch.from_numpy(array) for name, array in network.state().items()})
    for name, layer in network.layers.items():
        if isinstance(layer, Dropout):
            module.set_submodule(name, Masked(layer))
    return network, module


def batch(seed: int, size: int = 50) -> tuple[NDArray[Any], NDArray[np.int64]]:
    random = np.random.default_rng(seed)
    return random.random((size, 784)), random.integers(0, 10, size)


def assert_close(ours: NDArray[Any], theirs: torch.Tensor) -> None:
    wanted = theirs.detach().numpy()
    np.testing.assert_allclose(ours, wanted, rtol=0, atol=AGREEMENT * max(1.0, np.abs(wanted).max()))


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_loss_and_every_gradient_are_pytorchs(shape: Shape) -> None:
    network, module = pair(shape)
    x, labels = batch(1)

    loss = network.loss(x, labels)
    wanted = nn.functional.cross_entropy(module.train()(torch.from_numpy(x)), torch.from_numpy(labels))
    torch.autograd.backward(wanted)

    assert loss == pytest.approx(wanted.item(), abs=AGREEMENT)
    theirs = dict(module.named_parameters())
    assert set(network.gradients) == set(theirs)
    for name, gradient in network.gradients.items():
        wanted_gradient = theirs[name].grad
        assert wanted_gradient is not None
        assert_close(gradient.T, wanted_gradient)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_training_and_what_it_has_learnt_are_pytorchs(shape: Shape) -> None:
    network, module = pair(shape)
    solver, optimizer = Adam(), TorchAdam(module.parameters(), lr=1e-3)
    for seed in range(3):
        x, labels = batch(seed)
        network.loss(x, labels)
        solver.step(network.parameters, network.gradients, 1e-3)
        optimizer.zero_grad()
        torch.autograd.backward(
            nn.functional.cross_entropy(module.train()(torch.from_numpy(x)), torch.from_numpy(labels))
        )
        optimizer.step()

    biased = {name: buffer for name, buffer in module.named_buffers() if name.endswith("running_mean")}
    assert len(biased) == (len(shape.hidden) if shape.epsilon else 0)
    for name, buffer in biased.items():
        assert_close(network.state()[name], buffer)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm1d):
            # PyTorch averages the unbiased variance of its batches of 50, the source the biased one.
            begin = 0.9**3
            part.running_var = begin + (part.get_buffer("running_var") - begin) * 49 / 50
    x, _labels = batch(9)
    assert_close(network.forward(x), module.eval()(torch.from_numpy(x)))


def test_state_goes_to_pytorch_and_comes_back() -> None:
    shape = SHAPES["threelayer"]
    network, other = (fully_connected(shape, lambda _inputs: 0.1, seed) for seed in (0, 1))
    network.loss(*batch(0))

    state = {name: tensor.numpy() for name, tensor in from_numpy(network, shape).state_dict().items()}
    other.load(state)

    assert set(state) == set(in_torch(shape).state_dict())
    np.testing.assert_allclose(other.forward(batch(1)[0]), network.forward(batch(1)[0]), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("product", "operators"), [("Gemm", ["Gemm"]), ("MatMul", ["MatMul", "Add"])])
def test_onnx_by_hand_is_the_network_as_pytorch_has_it(product: Product, operators: list[str]) -> None:
    shape = Shape(hidden=(8, 6), epsilon=1e-3, dropout=0.5)
    network = fully_connected(shape, lambda _inputs: 0.1, seed=0, dtype=np.float32)
    for seed in range(3):
        network.loss(batch(seed)[0].astype(np.float32), batch(seed)[1])
    module = from_numpy(network, shape)

    model = export_by_hand(module, shape, product)

    hidden = [*operators, "BatchNormalization", "Relu"]
    assert [node.op_type for node in model.graph.node] == ["Flatten", *hidden, *hidden, *operators]
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    images = torch.rand(5, 1, 28, 28)
    with torch.inference_mode():
        np.testing.assert_allclose(session.run(["logits"], {"image": images.numpy()})[0], module(images), atol=1e-5)


def test_training_learns_and_says_how_far_it_is() -> None:
    network = fully_connected(Shape((8,), 1e-5), lambda _inputs: 0.05, seed=0, dtype=np.float32)
    data, heard = bright_or_dark(), Heard()

    fit(network, Recipe(phases=(Phase(2, 0.05), Phase(1, 0.01)), batch=16, validation=40, draws=80), Job(data, heard))

    assert [(epoch.number, epoch.of, epoch.learning_rate) for epoch in heard.epochs] == [
        (1, 3, 0.05),
        (2, 3, 0.05),
        (3, 3, 0.01),
    ]
    assert heard.steps == [(done, 5) for _ in range(3) for done in range(1, 6)]
    assert accuracy(network, data.x, labels_of(data)) == heard.epochs[-1].validation_accuracy == 1.0


def test_numpy_trains_without_torch() -> None:
    code = "import sys; sys.modules['torch'] = None; from sample_models.numpy_bn import export, training"

    subprocess.run([sys.executable, "-c", code], check=True)  # noqa: S603 - ours
