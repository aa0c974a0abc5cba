"""Time and peak memory of ``bnfold convert`` as a whole process, beside what people would otherwise use.

``python benchmarks/convert.py [RUNS]``, in an environment with the extra ``bench``. All tools take turns, round after
round, so that what slows the machine slows them all; a ratio is the median over the rounds.

Nothing large is loaded into this process: on Linux the peak of a command starts with that of the process that started
it (``ru_maxrss`` outlives ``exec``), so that the models are built, and what came out is counted, by processes apart.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

from arguments import count, parser
from printing import machine, table

RUNS = 7
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
"""Of what is measured: a package that pip installed comes with its bytecode, and so shall an editable bnfold."""
BUILDER = str(Path(__file__).with_name("onnx_resnet.py"))

LOAD_AND_SAVE = "import onnx, sys; onnx.save(onnx.load(sys.argv[1]), sys.argv[2])"
# The highest level whose output runs on other processors too.
ONNXRUNTIME = """
import onnxruntime, sys
options = onnxruntime.SessionOptions()
options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
options.optimized_model_filepath = sys.argv[2]
onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
"""
ONNXSCRIPT = """
import onnx, onnxscript.optimizer, onnxscript.rewriter, sys
model = onnxscript.optimizer.optimize(onnx.load(sys.argv[1]))
onnx.save(onnxscript.rewriter.rewrite(model), sys.argv[2])
"""
COUNT = "import onnx, sys; print(sum(n.op_type == 'BatchNormalization' for n in onnx.load(sys.argv[1]).graph.node))"


@dataclass(frozen=True)
class Tool:
    """A program that reads one ONNX file and writes another: Python's arguments, before the two files' names."""

    name: str
    package: str
    arguments: tuple[str, ...]
    options: tuple[str, ...] = ()

    def command(self, source: Path, output: Path) -> list[str]:
        """The whole command."""
        separator = ("-o",) if self.name == "bnfold" else ()
        return [sys.executable, *self.arguments, str(source), *separator, str(output), *self.options]


BNFOLD = Tool("bnfold", "bnfold", ("-m", "bnfold", "convert"), ("--force",))
PEERS = (
    Tool("onnxruntime", "onnxruntime", ("-c", ONNXRUNTIME)),
    Tool("onnx.load, onnx.save", "onnx", ("-c", LOAD_AND_SAVE)),
    Tool("onnxslim", "onnxslim", ("-m", "onnxslim")),
    Tool("onnxsim", "onnxsim", ("-m", "onnxsim")),
    Tool("onnxoptimizer", "onnxoptimizer", ("-m", "onnxoptimizer"), ("--passes", "fuse_bn_into_conv")),
    Tool("onnxscript", "onnxscript", ("-c", ONNXSCRIPT)),
)


@dataclass(frozen=True)
class Run:
    """One process from start to end: ``peak_bytes`` is the most memory that it held at a time.

    ``processor_seconds`` is the time that it kept processors busy, which other work beside it changes less.
    """

    seconds: float
    peak_bytes: int
    processor_seconds: float


@dataclass(frozen=True)
class Limits:
    """What bnfold promises: its time over each tool's, by the tool's name, and its peak over the file's size."""

    times: dict[str, float]
    peak: float | None = None


LARGE = Limits({tool.name: 1.0 for tool in PEERS} | {"onnxruntime": 1.6}, peak=3.5)
SMALL = Limits({"onnxslim": 0.5})


def run(command: Sequence[str]) -> Run:
    """Run to the end; what is printed is of no interest unless it fails."""
    start = time.perf_counter()
    process = subprocess.Popen(  # noqa: S603 - our own
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=ENVIRONMENT
    )
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"exit code {process.returncode}: {' '.join(command)}")
    peak_bytes = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return Run(seconds, peak_bytes, usage.ru_utime + usage.ru_stime)


def measure(tools: Sequence[Tool], source: Path, runs: int) -> dict[str, list[Run]]:
    """All tools in turn, ``runs`` times, every other time in reverse; the first round warms up and is not counted."""
    results: dict[str, list[Run]] = {tool.name: [] for tool in tools}
    for turn in range(runs + 1):
        for tool in tools if turn % 2 else reversed(tools):
            result = run(tool.command(source, output_of(tool, source)))
            results[tool.name] += [result] if turn else []
    return results


def output_of(tool: Tool, source: Path) -> Path:
    """Where a tool writes to."""
    return source.with_name(f"{source.stem}.{tool.package}.onnx")


def report(source: Path, results: dict[str, list[Run]], limits: Limits) -> str:
    """The table of one model; ``bnfold / it`` is bnfold's time over the row's."""
    titles = ("tool", "time", "processor", "bnfold / it", "limit", "peak", "/ file", "limit", "batch norms left")
    missing = [(tool.name, *["not installed"] * (len(titles) - 1)) for tool in PEERS if tool.name not in results]
    rows = [row(tool, source, results, limits) for tool in (BNFOLD, *PEERS) if tool.name in results]
    return f"{source.name}: {source.stat().st_size / 1e6:.1f} MB\n\n" + table(titles, [*rows, *missing])


def row(tool: Tool, source: Path, results: dict[str, list[Run]], limits: Limits) -> tuple[str, ...]:
    """One tool's medians."""
    runs = results[tool.name]
    peak_bytes = statistics.median(run.peak_bytes for run in runs)
    ratio = statistics.median(
        bnfold.seconds / other.seconds for bnfold, other in zip(results["bnfold"], runs, strict=True)
    )
    is_ours = tool is BNFOLD
    time_limit = limits.times.get(tool.name)
    left = subprocess.check_output([sys.executable, "-c", COUNT, str(output_of(tool, source))], text=True)  # noqa: S603
    return (
        tool.name,
        f"{statistics.median(run.seconds for run in runs):.2f} s",
        f"{statistics.median(run.processor_seconds for run in runs):.2f} s",
        "" if is_ours else f"{ratio:.2f}",
        "" if time_limit is None else f"{time_limit:.1f}",
        f"{peak_bytes / 1e6:.0f} MB",
        f"{peak_bytes / source.stat().st_size:.1f}",
        f"{limits.peak:.1f}" if is_ours and limits.peak else "",
        left.strip(),
    )


def main() -> None:
    """Print a table for the large model and one for the small."""
    known = parser(__doc__)
    known.add_argument("runs", nargs="?", type=count, default=RUNS, metavar="RUNS", help=f"rounds (default: {RUNS})")
    runs: int = known.parse_args().runs
    tools = [BNFOLD, *(tool for tool in PEERS if find_spec(tool.package))]
    print(machine([tool.package for tool in (BNFOLD, *PEERS)]))
    with TemporaryDirectory(prefix="bnfold-benchmark-") as folder:
        for size, limits, share in (("large", LARGE, 1), ("small", SMALL, 2)):
            source = Path(folder) / f"{size}.onnx"
            run([sys.executable, BUILDER, size, str(source)])
            print(f"\n{report(source, measure(tools, source, share * runs), limits)}", flush=True)


if __name__ == "__main__":
    main()
