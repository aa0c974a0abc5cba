"""The files of a trained network: its state_dict as ``.safetensors``, and ONNX with every batch norm kept."""

from __future__ import annotations

import json
import logging
import warnings
from textwrap import shorten
from typing import TYPE_CHECKING, Final

from bnfold.errors import InputError, OutputError
from bnfold.files.writing import check_target, write_together

if TYPE_CHECKING:
    from pathlib import Path

    from onnx import ModelProto
    from torch import nn

    from sample_models import Network

INPUT: Final = {"scale": 255, "mean": 0.0, "std": 1.0}
"""How raw pixels become the networks' input, (x / scale − mean) / std: the model's metadata ``bnfold.input``."""


def prepare(network: Network, directory: Path) -> None:
    """Make ``directory``, and raise OutputError where the files could not be written: worth asking before training."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"cannot make the folder {directory}: {error.strerror}", remedy="choose another --out"
        ) from error
    for path in (network.weights(directory), network.onnx(directory)):
        check_target(path, force=True)


def write(network: Network, module: nn.Module, directory: Path) -> tuple[Path, Path]:
    """Write both files and return their paths. The same weights and versions of the packages give the same bytes."""
    from safetensors.torch import save

    weights, onnx = network.weights(directory), network.onnx(directory)
    model = exported(network, module).SerializeToString(deterministic=True)
    write_together({weights: save(module.state_dict()), onnx: model}, force=True)
    return weights, onnx


def exported(network: Network, module: nn.Module) -> ModelProto:
    """The trained network as ONNX: by its own ``export`` where it has one, else by PyTorch's exporter."""
    model: ModelProto = getattr(network.file(), "export", export)(module)
    return model


def write_batch_statistics(network: Network, module: nn.Module, directory: Path) -> tuple[Path, Path]:
    """Write the trained network as it runs in training, each BN with its batch's statistics; the two paths.

    The BNs of the state_dict have no running statistics, and those of the ONNX model are in training mode, with the
    statistics that every training begins with.
    """
    from safetensors.torch import save

    weights, onnx = (directory / f"{network.name}-batch-statistics{suffix}" for suffix in (".safetensors", ".onnx"))
    kept = network.file().batch_statistics().state_dict().keys()
    state = {name: tensor for name, tensor in module.state_dict().items() if name in kept}
    model = in_training_mode(export(module)).SerializeToString(deterministic=True)
    write_together({weights: save(state), onnx: model}, force=True)
    return weights, onnx


def in_training_mode(model: ModelProto) -> ModelProto:
    """``model`` with its BNs set to training mode, in place: mean 0 and variance 1 as they begin, three outputs."""
    import numpy as np
    from onnx import helper, numpy_helper

    begin: dict[str, float] = {}
    for node in model.graph.node:
        if node.op_type == "BatchNormalization":
            node.attribute.append(helper.make_attribute("training_mode", 1))
            node.output.extend([f"{node.output[0]}_mean", f"{node.output[0]}_variance"])
            begin |= {node.input[3]: 0, node.input[4]: 1}
    for tensor in model.graph.initializer:
        if tensor.name in begin:
            array = np.full_like(numpy_helper.to_array(tensor), begin[tensor.name])
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    return model


def read(network: Network, path: Path) -> nn.Module:
    """The trained network out of its ``.safetensors``, in evaluation mode. Raises InputError for any other file."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    module = network.build()
    try:
        module.load_state_dict(load_file(path))
    except (OSError, SafetensorError, RuntimeError) as error:  # RuntimeError: names or shapes of another network
        said = shorten(str(error), width=150, placeholder="…")
        raise InputError(f"there is no trained {network.name} in this file: {said}", where=f"in {path}") from error
    return module.eval()


def export(module: nn.Module) -> ModelProto:
    """ONNX: input ``image`` float32 (N, 1, 28, 28), output ``logits`` (N, 10), any N, with every batch norm kept.

    ``optimize=False`` is what keeps them: PyTorch's exporter folds batch norms on its own otherwise.
    """
    import torch

    logging.getLogger("torch.onnx._internal.exporter._registration").setLevel(logging.ERROR)  # "no torchvision"
    with warnings.catch_warnings():
        # torch.export calls what torch itself deprecates (2.13).
        warnings.filterwarnings("ignore", message=r".*isinstance\(treespec, LeafSpec\)", category=FutureWarning)
        program = torch.onnx.export(
            module.eval(),
            (torch.zeros(2, 1, 28, 28),),
            input_names=["image"],
            output_names=["logits"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            dynamo=True,
            optimize=False,
            verbose=False,
        )
    assert program is not None  # noqa: S101 - None is the return value of dynamo=False
    model = program.model_proto
    _strip(model)
    return describe_input(model)


def describe_input(model: ModelProto) -> ModelProto:
    """``model`` with the metadata that says how raw pixels become its input, added in place."""
    model.metadata_props.add(key="bnfold.input", value=json.dumps(INPUT))
    return model


def _strip(model: ModelProto) -> None:
    """Drop the exporter's notes: stack traces with this machine's paths, and the program's signature."""
    graph = model.graph
    for part in (model, graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        part.ClearField("doc_string")
        part.ClearField("metadata_props")
