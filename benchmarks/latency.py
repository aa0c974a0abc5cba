"""How fast the folded network is: beside the original, and beside the same network written without batch norms.

``python benchmarks/latency.py``, in an environment with the extras ``torch`` and ``export``. Everything runs on one
thread. The three models of a case take turns, and a ratio is the median over the turns, with its bootstrap 95 %
interval: folded is to be within 2 % of what was written by hand.
"""

from __future__ import annotations

import copy
import logging
import statistics
import sys
import warnings
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from arguments import parser
from networks import copy_layers, resnet, tinycnn
from printing import machine, table
from torch import nn

import bnfold
from bnfold.check.bench import Candidate, Effort, bench
from bnfold.check.statistics import Ratio, paired_ratio
from bnfold.runtime import ort, torch_eager
from bnfold.runtime.session import Session

THREADS = 1
LIMIT = 1.02
EFFORT = Effort(min_seconds=0.5, min_rounds=6)
REPETITIONS = 3
NAMES = ("original", "folded", "by hand")
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

    def sessions(self, runtime: str, names: Sequence[str] = NAMES) -> list[Session]:
        """The three forms, ready to run, in the order of ``names``."""
        places = [NAMES.index(name) for name in names]
        if runtime == "PyTorch eager":
            return [torch_eager.open_session(copy.deepcopy(self.modules[place]), self.example) for place in places]
        optimise = runtime == "onnxruntime"
        return [ort.open_session(self.onnx[place], optimise=optimise, threads=THREADS) for place in places]


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
    """ONNX for any batch; ``optimize=False`` keeps the batch norms, which PyTorch's exporter would fold.

    Constants are computed here: as exported so, onnxruntime does not see that a convolution has no bias, and folds
    nothing; bnfold does, and would look a third faster than it is beside the usual export.
    """
    from onnxscript.optimizer import fold_constants

    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    batch = ({0: torch.export.Dim("batch")},)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what torch itself deprecates
        program = torch.onnx.export(module, (example,), dynamic_shapes=batch, optimize=False, verbose=False)
    assert program is not None  # noqa: S101 - None is the return value of dynamo=False
    model = program.model_proto
    fold_constants(model)
    path.write_bytes(model.SerializeToString())


def measure(network: Forms, runtime: str, batches: Sequence[int], effort: Effort) -> list[tuple[str, ...]]:
    """The table's rows for one runtime.

    The models are opened anew for each of ``REPETITIONS``, and each time another one comes first: where in memory its
    weights happen to lie, and which model ran before it, makes one of two equal models 5 % slower.
    """
    times_ms: defaultdict[tuple[int, str], list[float]] = defaultdict(list)
    for turn in range(REPETITIONS):
        names = (*NAMES[turn % 3 :], *NAMES[: turn % 3])
        sessions = network.sessions(runtime, names)
        require_agreement(network, sessions)
        candidates = [Candidate(name, session) for name, session in zip(names, sessions, strict=True)]
        for case in bench(candidates, batches, optimises=runtime == "onnxruntime", effort=effort):
            for timing in case.timings:
                times_ms[case.batch, timing.model] += timing.samples_ms
    return [row(network.name, runtime, batch, [times_ms[batch, name] for name in NAMES]) for batch in batches]


def require_agreement(network: Forms, sessions: Sequence[Session]) -> None:
    """All three compute the same, or their times mean nothing."""
    feeds = {sessions[0].inputs[0].name: network.example.numpy()}
    first, *others = [next(iter(session.run(feeds).values())) for session in sessions]
    for other in others:
        error = float(np.abs(other - first).max() / np.abs(first).max())
        if not error < AGREEMENT:
            sys.exit(f"{network.name} in {sessions[0].label}: outputs differ by {error:.1e}")


def row(name: str, runtime: str, batch: int, times_ms: Sequence[Sequence[float]]) -> tuple[str, ...]:
    """One case: medians of the three forms' times, and what folded has to do with the others."""
    original, folded, by_hand = times_ms
    gain, ratio = paired_ratio(folded, original, seed=0), paired_ratio(folded, by_hand, seed=0)
    return (
        name,
        runtime,
        str(batch),
        *(f"{statistics.median(times):.2f}" for times in times_ms),
        f"{gain.median:.3f}",
        f"{ratio.median:.3f}",
        f"{ratio.low:.3f} to {ratio.high:.3f}",
        verdict(ratio),
    )


def verdict(ratio: Ratio) -> str:
    """Whether the ratio keeps the limit; ``noise`` where its interval leaves both open and the median does not."""
    if ratio.median <= LIMIT:
        return "yes"
    return "no" if ratio.low > LIMIT else "noise"


def main() -> None:
    """Print the table."""
    parser(__doc__).parse_args()
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
