from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnxruntime
import pytest
import torch

from bnfold.errors import InputError, OutputError
from sample_models import NETWORKS, Network
from sample_models.files import export, prepare, read, write

if TYPE_CHECKING:
    from torch import nn

SMALLCNN = next(network for network in NETWORKS if network.name == "smallcnn")
TINYCNN = next(network for network in NETWORKS if network.name == "tinycnn")


def one_step_trained(network: Network) -> nn.Module:
    """The network with statistics other than 0 and 1."""
    torch.manual_seed(0)
    module = network.build()
    module(torch.rand(8, 1, 28, 28))
    return module.eval()


def test_folder_that_cannot_be_made_is_refused_before_training(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(OutputError, match="cannot make the folder"):
        prepare(SMALLCNN, tmp_path / "file" / "out")


@pytest.mark.parametrize(
    ("weights", "symptom"),
    [
        pytest.param(b"", "deserializing header", id="empty"),
        pytest.param(b"no safetensors at all", "deserializing header", id="other-format"),
    ],
)
def test_file_without_tensors_is_an_input_error(tmp_path: Path, weights: bytes, symptom: str) -> None:
    path = SMALLCNN.weights(tmp_path)
    path.write_bytes(weights)

    with pytest.raises(InputError, match=symptom):
        read(SMALLCNN, path)


def test_weights_of_another_network_are_an_input_error() -> None:
    with pytest.raises(InputError, match=r"no trained tinycnn in this file: .*Missing key") as caught:
        read(TINYCNN, SMALLCNN.weights())

    assert len(str(caught.value).splitlines()) == 2


def test_files_have_the_same_bytes_each_time_and_come_back_as_they_were(tmp_path: Path) -> None:
    module = one_step_trained(SMALLCNN)
    first, second = tmp_path / "first", tmp_path / "second"
    for directory in (first, second):
        prepare(SMALLCNN, directory)
        write(SMALLCNN, module, directory)

    again = read(SMALLCNN, SMALLCNN.weights(first)).state_dict()

    for name in ("smallcnn.onnx", "smallcnn.safetensors"):
        assert (first / name).read_bytes() == (second / name).read_bytes()
    assert all(torch.equal(again[name], tensor) for name, tensor in module.state_dict().items())


@pytest.mark.parametrize("network", [pytest.param(network, id=network.name) for network in NETWORKS])
def test_export_keeps_the_bns_takes_any_batch_and_tells_nothing_of_this_machine(network: Network) -> None:
    module = one_step_trained(network)
    kept = sum("BatchNorm" in type(part).__name__ for part in module.modules())
    image = torch.rand(3, 1, 28, 28)

    model = export(module)

    assert [node.op_type for node in model.graph.node].count("BatchNormalization") == kept > 0
    content = model.SerializeToString()
    del model.graph.initializer[:]  # numbers may spell anything
    assert b".py" not in model.SerializeToString()
    assert str(Path(__file__).parents[2]).encode() not in model.SerializeToString()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    (logits,) = session.run(["logits"], {"image": image.numpy()})
    with torch.inference_mode():
        np.testing.assert_allclose(logits, module(image).numpy(), rtol=1e-3, atol=1e-4)
