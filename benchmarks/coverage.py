"""What each tool makes of the small graphs that the tests hold bnfold to: folded, wrong, invalid, or nothing at all.

``python benchmarks/coverage.py``, in an environment with the extras ``bench`` and ``dev``, on a system with fork. Each
tool gets each graph in a process of its own, and so does the judge: a crash ends a process, and counts.

The judge runs the original and the output as they are written (onnxruntime without optimisations, or onnx's reference
implementation) on the same random inputs; a graph that neither runs is left out. Batch norms are counted by bnfold's
view, so that one that a tool wrote out as a multiplication and an addition is still one.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
from apart import apart
from arguments import parser
from onnx import ModelProto
from peers import TOOLS, by_bnfold
from printing import machine, table

import bnfold
from bnfold.core.reason import Reason
from bnfold.formats.onnx.model import OnnxModel

TESTS = Path(__file__).parents[1] / "tests" / "formats"
PART_ONE = ("fold", "carry", "arithmetic", "constants", "operators", "shuffles", "sizes")
PART_TWO = ("parallel", "means", "subgraphs", "functions")
TOLERANCES = {"float16": 5e-2, "bfloat16": 5e-2, "float32": 1e-4, "float64": 1e-10}
"""Of the largest value. Wide on purpose: what is called wrong here is no matter of rounding."""
SLUGS = {reason.slug for reason in Reason}


@dataclass(frozen=True, eq=False)
class Graph:
    """One graph of a table: how many batch norms it has, and how many of them can be removed.

    One that becomes part of a multiplication beside it folds, and is still there, written out.
    """

    name: str
    model: ModelProto
    found: int
    removable: int
    is_as_the_table_says: bool


class Outcome(Enum):
    """What a tool made of a graph."""

    SAME = "the same network"
    WRONG = "wrong"
    INVALID = "invalid"
    CRASHED = "crashed"


@dataclass(frozen=True)
class Result:
    """The outcome, and how many batch norms are left where it is the same network."""

    outcome: Outcome
    left: int = 0


def graphs_of(tables: tuple[str, ...]) -> list[Graph]:
    """Every row of the tests' tables that holds a model which runs."""
    sys.path[:0] = [str(TESTS)]
    graphs = []
    for name in tables:
        module = importlib.import_module(f"test_onnx_{name}")
        rows = [row for value in vars(module).values() if isinstance(value, list) for row in value]
        for row in rows:
            model, *verdict = getattr(row, "values", ()) or (None,)
            if isinstance(model, ModelProto) and apart(partial(outputs, model)):
                graphs.append(graph_of(f"{name}: {row.id}", model, verdict))
    return graphs


def graph_of(name: str, model: ModelProto, verdict: list[Any]) -> Graph:
    """A row's graph, folded by bnfold. Where the row names no batch norm, its test holds the verdicts otherwise."""
    found, result = batch_norms_in(model), bnfold.fold(model)
    words = list(words_in(tuple(verdict)))
    kept = sum(word in SLUGS for word in words) if words or verdict == [{}] else len(result.plan.keeps)
    removable = found - batch_norms_in(result.model)
    return Graph(name, model, found, removable, is_as_the_table_says=len(result.plan.keeps) == kept)


def batch_norms_in(model: ModelProto) -> int:
    """How many batch norms there are, those among them that are written out."""
    return len(OnnxModel.copy_of(model).view.batch_norms)


def words_in(verdict: object) -> Iterator[str]:
    """The words of a verdict: one, by batch norm, or beside something else."""
    if isinstance(verdict, str):
        yield verdict
    elif isinstance(verdict, dict):
        yield from verdict.values()
    elif isinstance(verdict, tuple):
        for part in verdict:
            yield from words_in(part)


def result_of(tool: Callable[[Path, Path], None], graph: Graph, folder: Path) -> Result:
    """Run a tool on a graph, then the judge, each in a process of its own."""
    source, output = folder / "source.onnx", folder / "output.onnx"
    output.unlink(missing_ok=True)
    onnx.save(graph.model, source)
    apart(lambda: tool(source, output))
    if not output.is_file():
        return Result(Outcome.CRASHED)
    outcome = apart(lambda: judged(graph.model, output))
    if outcome is not Outcome.SAME:
        return Result(Outcome.WRONG if outcome is Outcome.WRONG else Outcome.INVALID)
    return Result(Outcome.SAME, batch_norms_in(onnx.load(output)))


def judged(original: ModelProto, output: Path) -> Outcome:
    """The same network or not, from two random inputs; whatever is raised means that the output is no model at all.

    It must pass onnx's checker, if the original does, and have the original's outputs.
    """
    folded = onnx.load(output)
    if passes_checker(original):
        onnx.checker.check_model(folded, full_check=True)
    for seed in (0, 1):
        expected, actual = outputs(original, seed), outputs(folded, seed)
        if list(actual) != list(expected):
            return Outcome.INVALID
        if not all(is_close(values, actual[name]) for name, values in expected.items()):
            return Outcome.WRONG
    return Outcome.SAME


def outputs(model: ModelProto, seed: int = 0) -> dict[str, np.ndarray[Any, Any]]:
    """What a model computes as it is written, from random inputs."""
    from onnx_graphs import feeds_for, outputs_of

    return outputs_of(model, feeds_for(model, seed))


def passes_checker(model: ModelProto) -> bool:
    """Whether onnx finds nothing wrong with a model."""
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError):
        return False
    return True


def is_close(expected: np.ndarray[Any, Any], actual: np.ndarray[Any, Any]) -> bool:
    """Whether the values are the same but for rounding, relative to the largest."""
    if expected.shape != actual.shape or expected.dtype != actual.dtype:
        return False
    before, after = expected.astype(np.float64), actual.astype(np.float64)
    finite = np.isfinite(before)
    if not np.array_equal(before[~finite], after[~finite], equal_nan=True):
        return False
    error = np.abs(before - after)[finite].max(initial=0)
    return bool(error <= TOLERANCES.get(str(expected.dtype), 0) * np.abs(before[finite]).max(initial=0))


def row(name: str, graphs: list[Graph], results: list[Result]) -> tuple[str, ...]:
    """One tool over some graphs. Batch norms count as folded where the network is the same."""
    gone = [
        graph.found - result.left if result.outcome is Outcome.SAME else 0
        for graph, result in zip(graphs, results, strict=True)
    ]
    removable = [graph.removable for graph in graphs]
    more = sum(max(0, count - limit) for count, limit in zip(gone, removable, strict=True))
    counts = [
        sum(result.outcome is outcome for result in results) for outcome in Outcome if outcome is not Outcome.SAME
    ]
    return name, f"{sum(map(min, gone, removable))} of {sum(removable)}", str(more), *map(str, counts)


def remark(graph: Graph, result: Result) -> str:
    """What is worth a word about a tool and a graph; nothing where it did its work, or left the graph as it is."""
    if result.outcome is not Outcome.SAME:
        return f"{result.outcome.value}: {graph.name}"
    more = graph.found - result.left - graph.removable
    return f"beyond the table: {graph.name}" if more > 0 else ""


def main() -> None:
    """Print a table for each part, then what is worth a word about each tool."""
    parser(__doc__).parse_args()
    if missing := [name for name in TOOLS if not find_spec(name)]:
        sys.exit(f"not installed: {', '.join(missing)}; pip install '.[bench,dev]'")
    print(machine(("onnx", *TOOLS)))
    for package in (*TOOLS, "onnxscript.optimizer", "onnxscript.rewriter", "onnx.reference"):
        importlib.import_module(package)  # once, and not in each of thousands of processes
    remarks: dict[str, list[str]] = {name: [] for name in TOOLS}
    is_sound = True
    with TemporaryDirectory(prefix="bnfold-benchmark-") as folder:
        for part, tables in (("part one", PART_ONE), ("part two", PART_TWO)):
            graphs = graphs_of(tables)
            rows = []
            for name, tool in TOOLS.items():
                results = [result_of(tool, graph, Path(folder)) for graph in graphs]
                rows.append(row(name, graphs, results))
                pairs = list(zip(graphs, results, strict=True))
                remarks[name] += [text for graph, result in pairs if (text := remark(graph, result))]
                is_sound &= tool is not by_bnfold or all(result.outcome is Outcome.SAME for result in results)
            is_sound &= all(graph.is_as_the_table_says for graph in graphs)
            titles = ("tool", "folded", "beyond the table", *(it.value for it in Outcome if it is not Outcome.SAME))
            print(f"\n{part}: {len(graphs)} graphs, {sum(graph.found for graph in graphs)} batch norms\n")
            print(table(titles, rows), flush=True)
    for name, found in remarks.items():
        print(f"\n{name}:", *(found or ["nothing"]), sep="\n- ")
    if not is_sound:
        sys.exit("\nbnfold fails, or does not do what its tables say")


if __name__ == "__main__":
    main()
