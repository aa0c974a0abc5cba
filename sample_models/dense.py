"""Fully connected networks as PyTorch modules: the other side of ``numpy_bn.network``, with the same names."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from sample_models.files import describe_input
from sample_models.numpy_bn.export import to_onnx
from sample_models.numpy_bn.network import CLASSES, INPUTS, Network, Shape, fully_connected

if TYPE_CHECKING:
    from onnx import ModelProto

    from sample_models.numpy_bn.export import Product


def in_torch(shape: Shape) -> nn.Sequential:
    """28×28 → the network of this shape, with PyTorch's initial weights."""
    layers: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
    inputs = INPUTS
    for number, size in enumerate(shape.hidden, start=1):
        layers[f"dense{number}"] = nn.Linear(inputs, size)
        if shape.epsilon is not None:
            # PyTorch's momentum is the share of what is new.
            layers[f"bn{number}"] = nn.BatchNorm1d(size, eps=shape.epsilon, momentum=1 - shape.momentum)
        layers[f"relu{number}"] = nn.ReLU()
        if shape.dropout:
            layers[f"dropout{number}"] = nn.Dropout(shape.dropout)
        inputs = size
    layers["logits"] = nn.Linear(inputs, CLASSES)
    return nn.Sequential(layers)


def from_numpy(network: Network, shape: Shape) -> nn.Sequential:
    """A trained network of NumPy layers as a module, in evaluation mode."""
    module = in_torch(shape)
    module.load_state_dict({name: torch.from_numpy(array) for name, array in network.state().items()})
    return module.eval()


def export_by_hand(module: nn.Module, shape: Shape, product: Product) -> ModelProto:
    """ONNX as ``numpy_bn.export`` writes it, with the module's weights."""
    network = fully_connected(shape, lambda _inputs: 0.0, seed=0, dtype=np.float32)
    network.load({name: tensor.numpy() for name, tensor in module.state_dict().items()})
    return describe_input(to_onnx(network, product))
