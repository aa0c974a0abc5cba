"""ONNX files of the shape of ResNet-50 (He et al. 2016), for ``convert.py``: random weights, a batch norm per layer.

``python benchmarks/onnx_resnet.py large|small OUT`` writes one; the same name gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from arguments import parser
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

OPSET = 17
IR_VERSION = 8
EXPANSION = 4
"""A block puts out four times the channels that its inner convolutions work on."""


@dataclass(frozen=True)
class Size:
    """``blocks`` in each stage, the inner channels of the first stage (each further one doubles them), ``classes``."""

    blocks: tuple[int, ...]
    width: int
    classes: int
    image: int


SIZES = {
    "large": Size(blocks=(3, 4, 6, 3), width=64, classes=1000, image=224),
    "small": Size(blocks=(1, 1, 1, 1), width=3, classes=28, image=64),
}
"""``large`` is ResNet-50 itself: 53 batch norms, 102 MB. ``small`` has 17, and 100 KB."""


def resnet(size: Size, seed: int = 0) -> ModelProto:
    """The network in float32: input ``image`` (N, 3, image, image), output ``logits`` (N, classes), any N."""
    return _Builder(seed).network(size)


class _Builder:
    """Nodes and tensors in the order in which they are made; every method returns the name of what it puts out."""

    def __init__(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        self.nodes: list[NodeProto] = []
        self.tensors: list[TensorProto] = []

    def network(self, size: Size) -> ModelProto:
        value = self.conv_bn("stem", "image", (3, size.width), kernel=7, stride=2)
        value = self.node("MaxPool", [self.relu(value)], kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
        channels = size.width
        for stage, blocks in enumerate(size.blocks):
            inner = size.width * 2**stage
            for block in range(blocks):
                stride = 2 if stage > 0 and block == 0 else 1
                value = self.bottleneck(f"stage{stage}.{block}", value, (channels, inner), stride)
                channels = inner * EXPANSION
        pooled = self.node("Flatten", [self.node("GlobalAveragePool", [value])])
        weight = self.tensor("head.weight", self.normal((size.classes, channels), fan_in=channels))
        bias = self.tensor("head.bias", self.random.normal(size=size.classes))
        self.node("Gemm", [pooled, weight, bias], output="logits", transB=1)
        image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, size.image, size.image])
        logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", size.classes])
        graph = helper.make_graph(self.nodes, "resnet", [image], [logits], self.tensors)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)

    def bottleneck(self, name: str, value: str, channels: tuple[int, int], stride: int) -> str:
        """1×1, 3×3, 1×1, each with its batch norm, and a shortcut, which gets a convolution where shapes change."""
        before, inner = channels
        after = inner * EXPANSION
        branch = self.relu(self.conv_bn(f"{name}.reduce", value, (before, inner), kernel=1))
        branch = self.relu(self.conv_bn(f"{name}.spatial", branch, (inner, inner), kernel=3, stride=stride))
        branch = self.conv_bn(f"{name}.expand", branch, (inner, after), kernel=1)
        if before != after or stride > 1:
            value = self.conv_bn(f"{name}.shortcut", value, (before, after), kernel=1, stride=stride)
        return self.relu(self.node("Add", [branch, value]))

    def conv_bn(self, name: str, value: str, channels: tuple[int, int], *, kernel: int, stride: int = 1) -> str:
        """A convolution without bias, and a batch norm whose statistics and parameters are far from the identity."""
        before, after = channels
        shape = (after, before, kernel, kernel)
        weight = self.tensor(f"{name}.weight", self.normal(shape, fan_in=before * kernel**2))
        pads = [kernel // 2] * 4
        value = self.node("Conv", [value, weight], kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=pads)
        parameters = {
            "gamma": self.random.uniform(0.3, 1.2, after),
            "beta": self.random.normal(0, 0.5, after),
            "mean": self.random.normal(0, 0.5, after),
            "variance": self.random.uniform(0.3, 3, after),
        }
        names = [self.tensor(f"{name}.bn.{parameter}", values) for parameter, values in parameters.items()]
        return self.node("BatchNormalization", [value, *names], epsilon=1e-5)

    def relu(self, value: str) -> str:
        return self.node("Relu", [value])

    def node(self, operator: str, inputs: Sequence[str], output: str = "", **attributes: Any) -> str:  # noqa: ANN401 - onnx.helper's
        output = output or f"{operator.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [output], name=f"node_{len(self.nodes)}", **attributes))
        return output

    def tensor(self, name: str, values: NDArray[np.float64]) -> str:
        self.tensors.append(numpy_helper.from_array(values.astype(np.float32), name))
        return name

    def normal(self, shape: tuple[int, ...], *, fan_in: int) -> NDArray[np.float64]:
        """He et al. 2015: what keeps the activations' size from layer to layer."""
        return self.random.normal(0, (2 / fan_in) ** 0.5, shape)


def main() -> None:
    """Write the file."""
    known = parser(__doc__)
    known.add_argument("size", choices=SIZES)
    known.add_argument("path", type=Path, metavar="OUT")
    given = known.parse_args()
    given.path.write_bytes(resnet(SIZES[given.size]).SerializeToString(deterministic=True))


if __name__ == "__main__":
    main()
