"""How fast the folded network is: beside the original, and beside the same network written without batch norms.

``python benchmarks/latency.py``, in an environment with the extras ``torch`` and ``export``. Everything runs on one
thread. The three models of a case take turns, and a ratio is the median over the turns, with its bootstrap 95 %
interval: folded is to be within 2 % of what was written by hand.
"""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from networks import copy_layers, resnet, tinycnn
from printing import machine, table
from torch import nn

import bnfold
from bnfold.check.bench import Candidate, Effort, bench
from bnfold.check.statistics import paired_ratio
from bnfold.records import BenchCase
from bnfold.runtime import ort, torch_eager
from bnfold.runtime.session import Session

THREADS = 1
LIMIT = 1.02
EFFORT = Effort(min_seconds=2.0, min_rounds=30)
RUNTIMES = ("PyTorch eager", "onnxruntime, off", "onnxruntime")
AGREEMENT = 1e-4
"""Outputs may differ by so much of their largest value: float32 through 53 layers, fused in different ways."""


@dataclass(frozen=True)
class Forms:
    """A network as it was, as bnfold made it, and as it is written without batch norms; ``onnx`` are the files."""

    name: str
    example: torch.Tensor
    modules: tuple[nn.Module, ...]
    onnx: tuple[Path, ...]

    def sessions(self, runtime: str) -> list[Session]:
        """The three forms, ready to run."""
        if runtime == "PyTorch eager":
            return [torch_eager.open_session(module, self.example) for module in self.modules]
        optimise = runtime == "onnxruntime"
        return [ort.open_session(path, optimise=optimise, threads=THREADS) for path in self.onnx]


def forms(name: str, networks: tuple[nn.Module, nn.Module], image: tuple[int, int, int], folder: Path) -> Forms:
    """Fold the first network, give the second its weights, and write all three to ``folder``."""
    original, by_hand = networks
    example = torch.randn(2, *image, generator=torch.Generator().manual_seed(0))
    folded = bnfold.fold(original, inputs=example).model
    copy_layers(folded, by_hand)
    files = folder / f"{name}.onnx", folder / f"{name}.folded.onnx", folder / f"{name}.by-hand.onnx"
    export(original, example, files[0])
    bnfold.convert(files[0], files[1], require_fold="all")
    export(by_hand, example, files[2])
    return Forms(name, example, (original, folded, by_hand), files)


def export(module: nn.Module, example: torch.Tensor, path: Path) -> None:
    """ONNX for any batch; ``optimize=False`` keeps the batch norms, which PyTorch's exporter would fold."""
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    batch = ({0: torch.export.Dim("batch")},)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what torch itself deprecates
        program = torch.onnx.export(module, (example,), dynamic_shapes=batch, optimize=False, verbose=False)
    assert program is not None  # noqa: S101 - None is the return value of dynamo=False
    path.write_bytes(program.model_proto.SerializeToString())


def measure(network: Forms, runtime: str, batches: Sequence[int], effort: Effort) -> list[tuple[str, ...]]:
    """The table's rows for one runtime."""
    sessions = network.sessions(runtime)
    require_agreement(network, sessions)
    names = ("original", "folded", "by hand")
    candidates = [Candidate(name, session) for name, session in zip(names, sessions, strict=True)]
    cases = bench(candidates, batches, optimises=runtime == "onnxruntime", effort=effort)
    return [row(network.name, runtime, case) for case in cases]


def require_agreement(network: Forms, sessions: Sequence[Session]) -> None:
    """All three compute the same, or their times mean nothing."""
    feeds = {sessions[0].inputs[0].name: network.example.numpy()}
    first, *others = [next(iter(session.run(feeds).values())) for session in sessions]
    for other in others:
        error = float(np.abs(other - first).max() / np.abs(first).max())
        if not error < AGREEMENT:
            sys.exit(f"{network.name} in {sessions[0].label}: outputs differ by {error:.1e}")


def row(name: str, runtime: str, case: BenchCase) -> tuple[str, ...]:
    """One case: medians, and what folding and hand have to do with each other."""
    _, folded, by_hand = case.timings
    ratio = paired_ratio(folded.samples_ms, by_hand.samples_ms, seed=0)
    return (
        name,
        runtime,
        str(case.batch),
        *(f"{timing.median_ms:.2f}" for timing in case.timings),
        f"{folded.ratio:.3f}",
        f"{ratio.median:.3f}",
        f"{ratio.low:.3f} to {ratio.high:.3f}",
        "yes" if ratio.median <= LIMIT else "no",
    )


def main() -> None:
    """Print the table."""
    times = ("original ms", "folded ms", "by hand ms")
    ratios = ("folded / original", "folded / by hand", "95 % interval", f"at most {LIMIT}")
    torch.manual_seed(0)
    print(f"{machine(('bnfold', 'torch', 'onnxruntime', 'onnx'))}; {THREADS} thread\n")
    rows = []
    with TemporaryDirectory(prefix="bnfold-benchmark-") as folder, torch_eager.limited_threads(THREADS):
        networks = (
            (forms("tinycnn", tinycnn(), (1, 28, 28), Path(folder)), (1, 32, 1000)),
            (forms("ResNet-50", resnet(), (3, 224, 224), Path(folder)), (1, 8)),
        )
        for network, batches in networks:
            for runtime in RUNTIMES:
                rows += measure(network, runtime, batches, EFFORT)
    print(table(("network", "runtime", "batch", *times, *ratios), rows))


if __name__ == "__main__":
    main()
