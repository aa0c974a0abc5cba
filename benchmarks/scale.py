"""How ``bnfold convert`` grows: with the number of batch norms, and with the size of the weights.

``python benchmarks/scale.py [many|large]``; both by default. ``many`` converts networks of 1,000 and of 10,000 batch
norms between tiny layers: ten times as many are to take at most 12 times as long, and 20 s. ``large`` converts 2.5 GB
of weights in external data, and copies both files in turn: folding is to take at most 1.5 times as long, and 0.5 GB of
memory. It needs 10 GB of free disk.
"""

from __future__ import annotations

import os
import shutil
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from multiprocessing import Process
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from arguments import parser
from convert import Run, run
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper
from printing import machine, table

RUNS = 3
COUNTS = (1_000, 10_000)
GROWTH_LIMIT, SECONDS_LIMIT = 12, 20
LAYERS, CHANNELS = 24, 5120
"""24 weights of 5120 × 5120 float32: 2.5 GB."""
TIME_LIMIT, PEAK_LIMIT_BYTES = 1.5, 0.5e9

PARAMETERS = {"gamma": (0.3, 1.2), "beta": (-0.5, 0.5), "mean": (-0.5, 0.5), "variance": (0.3, 3.0)}
"""Of a batch norm, and the ranges they are drawn from: far from the identity."""


def plain(count: int) -> ModelProto:
    """Conv, batch norm and ReLU, ``count`` times."""
    return tiny_network(count, lambda node, value, _: node("Relu", value))


def residual(count: int) -> ModelProto:
    """Conv and batch norm, added to what comes in, ``count`` times; the sums ask for shapes."""
    return tiny_network(count, lambda node, value, before: node("Relu", node("Add", value, before)))


def row(count: int) -> ModelProto:
    """One Conv, and ``count`` batch norms directly behind one another."""
    return tiny_network(count, lambda _, value, __: value, batch_norms=count)


def tiny_network(
    count: int,
    close: Callable[[Callable[..., str], str, str], str],
    *,
    channels: int = 4,
    batch_norms: int = 1,
) -> ModelProto:
    """``count`` batch norms, behind a 1×1 convolution so many each; ``close(node, value, before)`` follows each."""
    random = np.random.default_rng(0)
    nodes: list[NodeProto] = []
    tensors: list[TensorProto] = []

    def node(op: str, *inputs: str) -> str:
        nodes.append(helper.make_node(op, inputs, [f"v{len(nodes)}"], name=f"node{len(nodes)}"))
        return f"v{len(nodes) - 1}"

    def tensor(low: float, high: float, *shape: int) -> str:
        tensors.append(numpy_helper.from_array(random.uniform(low, high, shape).astype(np.float32), f"t{len(tensors)}"))
        return f"t{len(tensors) - 1}"

    value = "x"
    for number in range(count):
        before = value
        if number % batch_norms == 0:
            value = node("Conv", value, tensor(-1, 1, channels, channels, 1, 1))
        value = node("BatchNormalization", value, *(tensor(*ends, channels) for ends in PARAMETERS.values()))
        value = close(node, value, before)
    return network(nodes, tensors, value, channels)


def network(nodes: Sequence[NodeProto], tensors: Sequence[TensorProto], output: str, channels: int) -> ModelProto:
    """A model with input ``x`` (N, channels, 1, 1) and one output of that shape."""
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", channels, 1, 1]) for name in ("x", output))
    graph = helper.make_graph(nodes, "scale", [x], [y], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def write_large(path: Path, layers: int, channels: int) -> None:
    """Conv, batch norm and ReLU, ``layers`` times; the weights lie in ``NAME.data``, and were never in memory whole."""
    random = np.random.default_rng(0)
    nodes: list[NodeProto] = []
    tensors: list[TensorProto] = []
    data = path.with_suffix(".data")
    with data.open("wb") as stream:
        for layer in range(layers):
            weight = TensorProto(name=f"w{layer}", data_type=TensorProto.FLOAT, dims=[channels, channels, 1, 1])
            weight.data_location = TensorProto.EXTERNAL
            entries = {"location": data.name, "offset": stream.tell(), "length": 4 * channels**2}
            for key, value in entries.items():
                weight.external_data.add(key=key, value=str(value))
            values = random.standard_normal((channels, channels), np.float32) / np.float32(channels**0.5)
            stream.write(values.data)
            tensors.append(weight)
            names = [f"{name}{layer}" for name in PARAMETERS]
            tensors += [
                numpy_helper.from_array(random.uniform(*ends, channels).astype(np.float32), name)
                for name, ends in zip(names, PARAMETERS.values(), strict=True)
            ]
            source = f"r{layer - 1}" if layer else "x"
            nodes += [
                helper.make_node("Conv", [source, f"w{layer}"], [f"c{layer}"]),
                helper.make_node("BatchNormalization", [f"c{layer}", *names], [f"n{layer}"]),
                helper.make_node("Relu", [f"n{layer}"], [f"r{layer}"]),
            ]
    path.write_bytes(network(nodes, tensors, f"r{layers - 1}", channels).SerializeToString())


def convert(source: Path, output: Path) -> Run:
    """``bnfold convert`` as a whole process."""
    command = [
        sys.executable,
        "-m",
        "bnfold",
        "convert",
        str(source),
        "-o",
        str(output),
        "--force",
        "--require-fold=all",
    ]
    return run(command)


def copy(files: Sequence[Path]) -> tuple[float, float]:
    """Copy files and flush them to the disk, as bnfold does with its own; the time, and that of the processor."""
    start, busy = time.perf_counter(), time.process_time()
    for file in files:
        output = file.with_name(f"copy{file.suffix}")
        shutil.copyfile(file, output)
        with output.open("rb+") as stream:
            os.fsync(stream.fileno())
    return time.perf_counter() - start, time.process_time() - busy


def many(folder: Path) -> str:
    """The table of networks with many batch norms; growth is that of processor time."""
    rows = []
    for name, build in {"plain": plain, "residual": residual, "row": row}.items():
        runs: dict[int, list[Run]] = {count: [] for count in COUNTS}
        for count in COUNTS:
            (folder / f"{name}{count}.onnx").write_bytes(build(count).SerializeToString())
        for _ in range(RUNS):
            for count in COUNTS:
                runs[count].append(convert(folder / f"{name}{count}.onnx", folder / "out.onnx"))
        wall = [statistics.median(run.seconds for run in runs[count]) for count in COUNTS]
        busy = [statistics.median(run.processor_seconds for run in runs[count]) for count in COUNTS]
        times = [f"{seconds:.1f} s" for pair in zip(wall, busy, strict=True) for seconds in pair]
        rows.append((name, *times, f"{SECONDS_LIMIT} s", f"{busy[1] / busy[0]:.1f}", str(GROWTH_LIMIT)))
    counts = [title for count in COUNTS for title in (f"{count:,} batch norms", "processor")]
    return table(("network", *counts, "limit", "growth", "limit"), rows)


def large(folder: Path) -> str:
    """The table of large weights."""
    source, output = folder / "large.onnx", folder / "out.onnx"
    writing = Process(target=write_large, args=(source, LAYERS, CHANNELS))  # apart, as ``convert.py`` says why
    writing.start()
    writing.join()
    files = (source, source.with_suffix(".data"))
    converted: list[Run] = []
    copied: list[tuple[float, float]] = []
    for turn in range(RUNS + 1):
        made, took = convert(source, output), copy(files)
        converted += [made] if turn else []  # the first round warms up
        copied += [took] if turn else []
    ratio = statistics.median(made.seconds / took for made, (took, _) in zip(converted, copied, strict=True))
    row = (
        f"{sum(file.stat().st_size for file in files) / 1e9:.2f} GB",
        f"{statistics.median(made.seconds for made in converted):.1f} s",
        f"{statistics.median(made.processor_seconds for made in converted):.1f} s",
        f"{statistics.median(took for took, _ in copied):.1f} s",
        f"{statistics.median(busy for _, busy in copied):.1f} s",
        f"{ratio:.2f}",
        str(TIME_LIMIT),
        f"{max(made.peak_bytes for made in converted) / 1e6:.0f} MB",
        f"{PEAK_LIMIT_BYTES / 1e6:.0f} MB",
    )
    titles = ("model", "bnfold", "processor", "copying", "processor", "bnfold / copying", "limit", "peak", "limit")
    return table(titles, [row])


def main() -> None:
    """Print the tables that are asked for."""
    measures = {"many": many, "large": large}
    known = parser(__doc__)
    known.add_argument("case", nargs="?", choices=measures, help="default: both")
    case: str | None = known.parse_args().case
    print(machine(("bnfold", "onnx", "numpy")))
    for measure in measures.values() if case is None else [measures[case]]:
        with TemporaryDirectory(prefix="bnfold-benchmark-") as folder:
            print(f"\n{measure(Path(folder))}", flush=True)


if __name__ == "__main__":
    main()
