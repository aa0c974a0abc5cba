"""What it is worth that layers beside one another become one: RepVGG-A0 as it is trained, and what is made of it.

``python benchmarks/branches.py``, in an environment with the extras ``torch`` and ``export``. On one thread, three
files take turns: the original, the one with only the batch norms behind convolutions folded (as folders of Conv→BN do),
and the one with one convolution a block.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import onnx
import torch
from arguments import parser
from latency import export
from networks import RepVGG, shaken
from printing import machine, table

import bnfold
from bnfold.core.graph import Sums
from bnfold.formats.onnx.model import OnnxModel
from bnfold.planner import plan
from bnfold.records import Timing

THREADS = 1
BATCHES = (1, 8)
IMAGE = (3, 224, 224)
MIN_SECONDS = 10.0


def files(network: torch.nn.Module, image: tuple[int, int, int], folder: Path) -> tuple[Path, Path, Path]:
    """The three files; CheckFailedError where they do not compute the same."""
    original, behind_layers, one_layer = (folder / f"{name}.onnx" for name in ("original", "conv-bn", "one-layer"))
    export(network, torch.randn(2, *image, generator=torch.Generator().manual_seed(0)), original)
    model = OnnxModel.load(original)
    model.apply(plan(replace(model.view, sums=Sums.FIXED)))
    onnx.save(model.folded, behind_layers)
    bnfold.convert(original, one_layer, require_fold="all", verify="random")
    return original, behind_layers, one_layer


def row(runtime: str, batch: int, timing: Timing) -> tuple[str, ...]:
    """One file in one case; its operators are counted as they are written."""
    operators = [node.op_type for node in onnx.load(timing.model).graph.node]
    ratio = "" if timing.ratio is None else f"{timing.ratio:.3f}"
    interval = "" if timing.ratio is None else f"{timing.ratio_low:.3f} to {timing.ratio_high:.3f}"
    counts = (str(operators.count(kind)) for kind in ("Conv", "BatchNormalization"))
    return Path(timing.model).stem, *counts, runtime, str(batch), f"{timing.median_ms:.2f}", ratio, interval


def main() -> None:
    """Print the table."""
    parser(__doc__).parse_args()
    torch.manual_seed(0)
    print(f"{machine(('bnfold', 'onnxruntime', 'onnx', 'torch'))}; {THREADS} thread\n")
    with TemporaryDirectory(prefix="bnfold-benchmark-") as folder:
        paths = files(shaken(RepVGG()), IMAGE, Path(folder))
        report = bnfold.bench(
            *paths, runtime=("ort", "ort-off"), batch=BATCHES, threads=THREADS, min_seconds=MIN_SECONDS
        )
        rows = [row(case.runtime, case.batch, timing) for case in report.cases for timing in case.timings]
    titles = ("file", "Conv", "BN", "runtime", "batch", "ms", "of the original's time", "95 % interval")
    print(table(titles, rows))


if __name__ == "__main__":
    main()
