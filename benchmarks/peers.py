"""Tools that fold batch norms in ONNX files, and how each is asked to: a function from one path to another."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx

import bnfold


def by_bnfold(source: Path, output: Path) -> None:
    """As ``bnfold convert`` comes."""
    bnfold.convert(source, output)


def by_onnxruntime(source: Path, output: Path) -> None:
    """The highest level whose output other processors run."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(output)
    onnxruntime.InferenceSession(str(source), options, providers=["CPUExecutionProvider"])


def by_onnxslim(source: Path, output: Path) -> None:
    """As it comes."""
    import onnxslim

    onnxslim.slim(str(source), str(output))


def by_onnxsim(source: Path, output: Path) -> None:
    """As it comes."""
    import onnxsim

    simplified, _ = onnxsim.simplify(str(source))
    onnx.save(simplified, output)


def by_onnxoptimizer(source: Path, output: Path) -> None:
    """All passes that fuse or eliminate."""
    import onnxoptimizer

    passes = onnxoptimizer.get_fuse_and_elimination_passes()
    onnx.save(onnxoptimizer.optimize(onnx.load(source), passes), output)


def by_onnxscript(source: Path, output: Path) -> None:
    """The optimiser, then the rewriter with its own rules."""
    import onnxscript.optimizer
    import onnxscript.rewriter

    onnx.save(onnxscript.rewriter.rewrite(onnxscript.optimizer.optimize(onnx.load(source))), output)


TOOLS: dict[str, Callable[[Path, Path], None]] = {
    "bnfold": by_bnfold,
    "onnxruntime": by_onnxruntime,
    "onnxslim": by_onnxslim,
    "onnxsim": by_onnxsim,
    "onnxoptimizer": by_onnxoptimizer,
    "onnxscript": by_onnxscript,
}
