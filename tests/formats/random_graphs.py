"""Random ONNX graphs of the operators that affines meet: branches, joins, layout, shared weights, several outputs."""

from __future__ import annotations

import math
from collections.abc import Callable
from random import Random
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

BATCH = 2
Shape = tuple[int, ...]
"""Without the batch axis: (C, H, W), (L, C) or (C,)."""


class GraphBuilder:
    """Grows a graph by appending random operators to random values."""

    def __init__(self, random: Random) -> None:
        self.random = random
        self.arrays = np.random.default_rng(random.randrange(2**31))
        self.values: list[tuple[str, Shape]] = []
        self.nodes: list[NodeProto] = []
        self.tensors: dict[str, NDArray[Any]] = {}
        self.batch_norms = 0

    def build(self, operators: int) -> ModelProto:
        """A model of about ``operators`` operators; all that nobody reads, and a few more values, are outputs."""
        starts: list[Shape] = [(4, 6, 6), (6, 5, 4), (4, 4), (6,)]
        start = self.random.choice(starts)
        self.values.append(("x", start))
        for _ in range(operators):
            name, shape = self.random.choice(self.values[-3:])
            grow = self.random.choice(BY_RANK[len(shape)])
            grow(self, name, shape)
        read = {name for node in self.nodes for name in node.input}
        outputs = [(name, shape) for name, shape in self.values[1:] if name not in read or self.random.random() < 0.1]
        batch = "N" if self.random.random() < 0.5 else BATCH
        graph = helper.make_graph(
            self.nodes,
            "random",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, *start])],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, [batch, *shape]) for name, shape in outputs],
            [numpy_helper.from_array(values, name) for name, values in self.tensors.items()],
        )
        return helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 20)])

    def add(self, op: str, inputs: list[str], shapes: list[Shape], **attributes: Any) -> list[str]:
        """One more operator, and its outputs' names."""
        names = [f"v{len(self.values) + offset}" for offset in range(len(shapes))]
        self.nodes.append(helper.make_node(op, inputs, names, **attributes))
        self.values += zip(names, shapes, strict=True)
        return names

    def tensor(self, *shape: int, scale: float = 1.0) -> str:
        """The name of a weight: a new one or, now and then, one that another operator has."""
        same = [name for name, values in self.tensors.items() if values.shape == shape and values.dtype == np.float32]
        if same and self.random.random() < 0.2:
            return self.random.choice(same)
        return self.store((self.arrays.normal(size=shape) * scale).astype(np.float32))

    def integers(self, *values: int) -> str:
        return self.store(np.array(values, np.int64))

    def store(self, values: NDArray[Any]) -> str:
        name = f"t{len(self.tensors)}"
        self.tensors[name] = values
        return name

    def another(self, shape: Shape, name: str) -> str:
        """A value of this shape, perhaps the same one."""
        return self.random.choice([other for other, known in self.values if known == shape] or [name])


def batch_norm(graph: GraphBuilder, name: str, shape: Shape) -> None:
    channels = shape[0]
    rng = graph.arrays
    gamma = rng.uniform(0.5, 1.5, channels) * (rng.choice([-1, 1], channels) if graph.random.random() < 0.5 else 1)
    shifted = graph.random.random() < 0.8
    values = [
        gamma,
        rng.normal(size=channels) * shifted,
        rng.normal(size=channels) * shifted,
        rng.uniform(0.3, 2, channels),
    ]
    if graph.random.random() < 0.15:
        values = [np.full(channels, item[0]) for item in values]
    parameters = [graph.store(item.astype(np.float32)) for item in values]
    graph.add("BatchNormalization", [name, *parameters], [shape])
    graph.batch_norms += 1


def conv(graph: GraphBuilder, name: str, shape: Shape) -> None:
    channels, height, width = shape
    groups = graph.random.choice([1, 1, 2, channels])
    outputs = groups * graph.random.choice([1, 2]) if groups > 1 else graph.random.choice([4, 6])
    kernel, padding = graph.random.choice([(1, 0), (3, 1), (3, 0)])
    if kernel > min(height, width) + 2 * padding or channels % groups:
        return
    inputs = [name, graph.tensor(outputs, channels // groups, kernel, kernel, scale=0.4)]
    inputs += [graph.tensor(outputs)] * graph.random.randrange(2)
    size = tuple(extent + 2 * padding - kernel + 1 for extent in (height, width))
    graph.add("Conv", inputs, [(outputs, *size)], group=groups, pads=[padding] * 4)


def conv_transpose(graph: GraphBuilder, name: str, shape: Shape) -> None:
    kernel = graph.random.choice([1, 2])
    inputs = [
        name,
        graph.tensor(shape[0], 4, kernel, kernel, scale=0.4),
        *[graph.tensor(4)] * graph.random.randrange(2),
    ]
    graph.add("ConvTranspose", inputs, [(4, shape[1] + kernel - 1, shape[2] + kernel - 1)])


def same_shape(op: str) -> Callable[[GraphBuilder, str, Shape], None]:
    """An operator that keeps the shape of its one input."""

    def grow(graph: GraphBuilder, name: str, shape: Shape) -> None:
        graph.add(op, [name], [shape])

    return grow


def pool(graph: GraphBuilder, name: str, shape: Shape) -> None:
    op = graph.random.choice(["MaxPool", "AveragePool"])
    attributes = {"count_include_pad": graph.random.randrange(2)} if op == "AveragePool" else {}
    padding = graph.random.randrange(2)
    if min(shape[1:]) + 2 * padding < 2:
        return
    size = tuple(extent + 2 * padding - 1 for extent in shape[1:])
    graph.add(op, [name], [(shape[0], *size)], kernel_shape=[2, 2], pads=[padding] * 4, **attributes)


def global_pool(graph: GraphBuilder, name: str, shape: Shape) -> None:
    op = graph.random.choice(["GlobalAveragePool", "GlobalMaxPool"])
    graph.add(op, [name], [(shape[0], 1, 1)])


def mean(graph: GraphBuilder, name: str, shape: Shape) -> None:
    op = graph.random.choice(["ReduceMean", "ReduceMean", "ReduceSum", "ReduceMax"])
    if graph.random.random() < 0.3:
        axis = graph.random.randrange(len(shape))
        graph.add(op, [name, graph.integers(axis + 1)], [(*shape[:axis], 1, *shape[axis + 1 :])])
        return
    axes = graph.integers(2, 3) if len(shape) == 3 else graph.integers(1)
    graph.add(op, [name, axes], [(shape[0],) if len(shape) == 3 else shape[1:]], keepdims=0)


def flatten(graph: GraphBuilder, name: str, shape: Shape) -> None:
    if math.prod(shape) <= 64:
        graph.add("Flatten", [name], [(math.prod(shape),)])


def regroup(graph: GraphBuilder, name: str, shape: Shape) -> None:
    """Reshape to another shape of as many elements, some of which scramble the channels."""
    total = math.prod(shape)
    targets: list[Shape] = [(a, total // a) for a in (2, 4, 6) if total % a == 0]
    targets += [(a, b, total // a // b) for a in (2, 4, 6) for b in (1, 2, 3) if total % (a * b) == 0]
    targets += [(total,)] if total <= 64 else []
    if targets:
        target = graph.random.choice(targets)
        graph.add("Reshape", [name, graph.integers(-1, *target)], [target])


def transpose(graph: GraphBuilder, name: str, shape: Shape) -> None:
    order = list(range(1, len(shape) + 1))
    graph.random.shuffle(order)
    graph.add("Transpose", [name], [tuple(shape[axis - 1] for axis in order)], perm=[0, *order])


def add(graph: GraphBuilder, name: str, shape: Shape) -> None:
    others = [graph.another(shape, name) for _ in range(graph.random.choice([1, 1, 2]))]
    op = "Mean" if len(others) > 1 else graph.random.choice(["Add", "Add", "Sub", "Mean"])
    graph.add(op, [name, *others], [shape])


def beside_a_layer(graph: GraphBuilder, name: str, shape: Shape) -> None:
    """A convolution that keeps the shape, its input added to what it gives, or taken from it; then a batch norm."""
    channels = shape[0]
    groups = graph.random.choice([1, channels])
    tensors = [graph.tensor(channels, channels // groups, 3, 3, scale=0.4)]
    tensors += [graph.tensor(channels)] * graph.random.randrange(2)
    (given,) = graph.add("Conv", [name, *tensors], [shape], group=groups, pads=[1] * 4)
    addends = [given, *[name] * graph.random.choice([1, 1, 2])]
    graph.random.shuffle(addends)
    operators = ["Add", "Add", "Sub", "Mean"] if len(addends) == 2 else ["Sum", "Mean"]
    (total,) = graph.add(graph.random.choice(operators), addends, [shape])
    batch_norm(graph, total, shape)


def shuffle(graph: GraphBuilder, name: str, shape: Shape) -> None:
    """Cut one axis in two, exchange them, and perhaps join them again."""
    axis = graph.random.randrange(len(shape))
    halves = next((size for size in (2, 3) if shape[axis] % size == 0), 0)
    if not halves or len(shape) == max(BY_RANK):
        return
    cut_shape = (*shape[:axis], halves, shape[axis] // halves, *shape[axis + 1 :])
    order = [0, *range(1, len(cut_shape) + 1)]
    order[axis + 1 : axis + 3] = [axis + 2, axis + 1]
    swapped = tuple(cut_shape[position - 1] for position in order[1:])
    values = [(name, shape)]
    for op, inputs, target, attributes in (
        ("Reshape", [graph.integers(-1, *cut_shape)], cut_shape, {}),
        ("Transpose", [], swapped, {"perm": order}),
        ("Reshape", [graph.integers(-1, *shape)], shape, {}),
    ):
        (result,) = graph.add(op, [values[-1][0], *inputs], [target], **attributes)
        values.append((result, target))


def concat(graph: GraphBuilder, name: str, shape: Shape) -> None:
    axis = graph.random.randrange(len(shape))
    if math.prod(shape) <= 400:
        joined = list(shape)
        joined[axis] *= 2
        graph.add("Concat", [name, graph.another(shape, name)], [tuple(joined)], axis=axis + 1)


def split(graph: GraphBuilder, name: str, shape: Shape) -> None:
    axis = graph.random.randrange(len(shape))
    if shape[axis] >= 2:
        sizes = (1, shape[axis] - 1)
        parts = [(*shape[:axis], size, *shape[axis + 1 :]) for size in sizes]
        graph.add("Split", [name, graph.integers(*sizes)], parts, axis=axis + 1)


def cut(graph: GraphBuilder, name: str, shape: Shape) -> None:
    axis = graph.random.randrange(len(shape))
    if shape[axis] >= 2:
        part = (*shape[:axis], shape[axis] - 1, *shape[axis + 1 :])
        inputs = [name, graph.integers(1), graph.integers(9999), graph.integers(axis + 1)]
        graph.add("Slice", inputs, [part])


def pick(graph: GraphBuilder, name: str, shape: Shape) -> None:
    """Positions of an axis, in any order; or one, whose axis is gone."""
    axis = graph.random.randrange(len(shape))
    if len(shape) > 1 and graph.random.random() < 0.3:
        one = graph.store(np.array(graph.random.randrange(-1, shape[axis]), np.int64))
        graph.add("Gather", [name, one], [(*shape[:axis], *shape[axis + 1 :])], axis=axis + 1)
        return
    chosen = [graph.random.randrange(-1, shape[axis]) for _ in range(shape[axis])]
    if graph.random.random() < 0.6:
        chosen = graph.random.sample(range(shape[axis]), shape[axis])
    graph.add("Gather", [name, graph.integers(*chosen)], [shape], axis=axis + 1)


def repeat(graph: GraphBuilder, name: str, shape: Shape) -> None:
    axis = graph.random.randrange(len(shape))
    if math.prod(shape) <= 400:
        times = [1] * len(shape)
        times[axis] = 2
        graph.add("Tile", [name, graph.integers(1, *times)], [(*shape[:axis], shape[axis] * 2, *shape[axis + 1 :])])


def expand(graph: GraphBuilder, name: str, shape: Shape) -> None:
    sizes = tuple(3 if size == 1 else size for size in shape)
    graph.add("Expand", [name, graph.integers(*[1] * (1 + len(shape) - len(sizes)), *sizes)], [sizes])


def pad(graph: GraphBuilder, name: str, shape: Shape) -> None:
    mode = graph.random.choice(["constant", "edge"])
    padded = (shape[0], shape[1] + 1, shape[2] + 1)
    graph.add("Pad", [name, graph.integers(0, 0, 1, 0, 0, 0, 0, 1)], [padded], mode=mode)


def depth_to_space(graph: GraphBuilder, name: str, shape: Shape) -> None:
    if shape[0] % 4 == 0:
        mode = graph.random.choice(["DCR", "CRD"])
        graph.add("DepthToSpace", [name], [(shape[0] // 4, shape[1] * 2, shape[2] * 2)], blocksize=2, mode=mode)


def space_to_depth(graph: GraphBuilder, name: str, shape: Shape) -> None:
    if shape[1] % 2 == 0 and shape[2] % 2 == 0:
        graph.add("SpaceToDepth", [name], [(shape[0] * 4, shape[1] // 2, shape[2] // 2)], blocksize=2)


def arithmetic(graph: GraphBuilder, name: str, shape: Shape) -> None:
    op = graph.random.choice(["Add", "Sub", "Mul", "Div"])
    axis = graph.random.randrange(len(shape))
    size = graph.random.choice([(), (shape[axis], *[1] * (len(shape) - 1 - axis))])
    values = (graph.arrays.uniform(0.5, 1.5, size) * graph.random.choice([-1, 1])).astype(np.float32)
    inputs = [name, graph.store(np.asarray(values))]
    if op != "Div" and graph.random.random() < 0.3:
        inputs.reverse()
    graph.add(op, inputs, [shape])


def matmul(graph: GraphBuilder, name: str, shape: Shape) -> None:
    if shape[-1] > 64:
        return
    outputs = graph.random.choice([4, 6])
    leading = [1] * graph.random.choice([0, 0, 0, len(shape) - 1])
    factors = [name, graph.tensor(*leading, shape[-1], outputs, scale=0.4)]
    (product,) = graph.add("MatMul", factors, [(*shape[:-1], outputs)])
    if graph.random.random() < 0.5:
        graph.add("Add", [product, graph.tensor(outputs)], [(*shape[:-1], outputs)])


def gemm(graph: GraphBuilder, name: str, shape: Shape) -> None:
    outputs = graph.random.choice([4, 6])
    transposed = graph.random.randrange(2)
    sizes = (outputs, shape[0]) if transposed else (shape[0], outputs)
    inputs = [name, graph.tensor(*sizes, scale=0.4), *[graph.tensor(outputs)] * graph.random.randrange(2)]
    graph.add("Gemm", inputs, [(outputs,)], transB=transposed, alpha=graph.random.choice([1.0, 0.5]), beta=0.7)


ANY = [batch_norm] * 7 + [
    same_shape("Relu"),
    same_shape("Identity"),
    same_shape("Neg"),
    shuffle,
    pick,
    repeat,
    regroup,
    transpose,
    add,
    concat,
    split,
    cut,
    arithmetic,
]
BY_RANK = {
    4: [batch_norm, same_shape("Relu"), same_shape("Identity"), regroup, transpose, add],
    3: [
        *ANY,
        conv,
        conv,
        conv,
        beside_a_layer,
        conv_transpose,
        pool,
        global_pool,
        mean,
        flatten,
        expand,
        pad,
        depth_to_space,
        space_to_depth,
        matmul,
    ],
    2: [*ANY, matmul, matmul, mean, flatten],
    1: [*ANY, gemm, gemm, matmul],
}
