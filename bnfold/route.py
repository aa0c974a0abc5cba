"""From which file to which: what the options of a conversion mean, before any work."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from bnfold.errors import UsageError
from bnfold.files.folders import is_model_folder, require_new_folder, weights_in
from bnfold.files.recognise import Kind, require_model
from bnfold.files.suffixes import fitting_suffix, require_fitting_name, suffix_of
from bnfold.files.writing import check_target
from bnfold.formats.kinds import TARGETS
from bnfold.formats.opening import open_keeping_architecture, open_model, open_pairs

if TYPE_CHECKING:
    from bnfold.formats.kinds import Target
    from bnfold.formats.model import Model
    from bnfold.formats.opening import Opening


@dataclass(frozen=True)
class Route:
    """The file that is read, and the one that is written.

    ``folder`` is the model's folder that the file lies in, if it is converted as a whole. ``to`` is another kind of
    file, ``pairs`` stand for an architecture, and ``keep_architecture`` lets folded batch norms stay.
    """

    path: Path
    target: Path
    folder: Path | None = None
    to: Target | None = None
    pairs: Sequence[str] = ()
    keep_architecture: bool = False

    @classmethod
    def of(
        cls, source: Path, output: Path | None, *, to: Target | None, pairs: Sequence[str], keep_architecture: bool
    ) -> Route:
        """The way from ``source``, a file or a model's folder. UsageError where the options exclude each other."""
        target = default_output(source, to) if output is None else output
        if is_model_folder(source):
            if pairs or to is not None:
                raise UsageError(
                    "a model's folder keeps its layout, and its batch norms",
                    remedy="leave --to and --pair out, or convert the weights in it as a file of their own",
                )
            path = weights_in(source)
            return cls(path, target / path.name, source, keep_architecture=True)
        if keep_architecture and (pairs or to in {"onnx", "pt2"}):
            raise UsageError(
                "--keep-architecture is for the weights of a module",
                remedy="leave --pair out, and write a state_dict (--to pt or safetensors)",
            )
        require_fitting_name(target, TARGETS[to] if to else require_model(source), None if to else source)
        return cls(source, target, to=to, pairs=pairs, keep_architecture=keep_architecture)

    def require_free(self, *, force: bool) -> None:
        """OutputError where the output could not be written."""
        if self.folder is not None:
            require_new_folder(self.target.parent, force=force, source=self.folder)
        else:
            check_target(self.target, force=force, inputs=[self.path])

    def require_runnable(self, *, has_factory: bool, verify: bool, bench: bool) -> None:
        """UsageError where what is asked for needs models that run, or run in the same runtime."""
        if self.pairs and (verify or bench):
            raise UsageError(
                "a state_dict without its architecture does not run, so that it can neither be verified nor timed",
                remedy="leave --verify and --bench out, or give --model pkg.module:factory instead of pairs",
            )
        if (verify or bench) and self.to in {"pt", "safetensors"} and not has_factory:
            raise UsageError(
                "what is written is a state_dict, which runs only with its architecture",
                remedy="leave --verify and --bench out; bnfold has run the folded module beside the original",
            )
        if bench and self.to == "onnx" and require_model(self.path) is not Kind.ONNX:
            raise UsageError(
                "a PyTorch model and an ONNX model cannot be timed in one runtime", remedy="leave --bench out"
            )

    def loader(self, opening: Opening, *, eps: float | None, freeze: bool) -> Callable[[], Model]:
        """What loads the model. UsageError where pairs are given besides what would tell them."""
        if eps is not None and not self.pairs:
            raise UsageError("--eps is for pairs", remedy="name them: --pair LAYER=BN; a module knows its own ε")
        if self.pairs and (opening["factory"] is not None or opening["trust_code"]):
            raise UsageError(
                "--pair is for a state_dict without its architecture", remedy="leave --pair out, or --model"
            )
        if self.keep_architecture:
            return partial(open_keeping_architecture, self.path, opening)
        if self.pairs:
            return partial(open_pairs, self.path, self.pairs, eps, key=opening["key"])
        return partial(open_model, self.path, **opening, freeze=freeze)


def default_output(source: Path, to: Target | None = None) -> Path:
    """``NAME.folded.EXT`` beside ``source``; EXT is its own, or that of the kind that it becomes."""
    if source.name in {"", ".."}:  # a folder named from inside
        source = source.resolve()
    suffix = "" if source.is_dir() else suffix_of(source)
    ending = suffix if to is None else fitting_suffix(TARGETS[to])
    return source.with_name(f"{source.name.removesuffix(suffix)}.folded{ending}")
