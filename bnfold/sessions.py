"""Files become running models: which runtime each wants, and that those that are timed get the same one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from bnfold.check.examples import described_sizes, examples_for
from bnfold.errors import UsageError
from bnfold.files.hashing import file_record
from bnfold.files.recognise import Kind, require_model
from bnfold.formats.kinds import KEYED, format_of
from bnfold.formats.opening import Opening
from bnfold.records import FileRecord, InputSpec
from bnfold.runtime.session import NoKernelError, Session
from bnfold.unsaved import onnx_session

if TYPE_CHECKING:
    from bnfold.formats.onnx.model import OnnxModel
    from bnfold.formats.torch.inputs import GivenInputs


@dataclass(frozen=True, eq=False)
class Models:
    """The files of a comparison, and how to open those that are PyTorch's.

    ``onnx`` has the others, each read once with its large tensors left in the file; None stands for PyTorch's.
    """

    paths: tuple[Path, ...]
    onnx: tuple[OnnxModel | None, ...]
    opening: Opening

    @classmethod
    def at(cls, paths: Sequence[Path], opening: Opening) -> Models:
        """The models at ``paths``.

        UnsafeError where an ONNX model's external data lies outside its folder: the runtimes would read it.
        """
        return cls(tuple(paths), tuple(map(_onnx_model, paths)), opening)

    @property
    def formats(self) -> tuple[str, ...]:
        """What the reports call their formats, where no code is trusted."""
        return tuple(format_of(path, trust_code=False) for path in self.paths)

    @property
    def sizes(self) -> tuple[InputSpec, ...]:
        """What the user said of sizes that a model leaves open.

        Where a PyTorch model takes part, examples are for that alone, and only descriptions are for all.
        """
        inputs = self.opening["inputs"]
        is_described = isinstance(inputs, Sequence) and all(isinstance(item, InputSpec) for item in inputs)
        return described_sizes(inputs) if is_described or all(self.onnx) else ()

    def records(self) -> tuple[FileRecord, ...]:
        """A record of each file, with the size of its external data."""
        trust_code = self.opening["trust_code"] and self.opening["factory"] is None
        formats = (format_of(path, trust_code=trust_code) for path in self.paths)
        return tuple(
            file_record(path, name, external=model.external if model else ())
            for path, name, model in zip(self.paths, formats, self.onnx, strict=True)
        )

    def packages(self) -> tuple[str, ...]:
        """The packages that take part when these models run."""
        onnx, torch = ("onnx", "onnxruntime") if any(self.onnx) else (), () if all(self.onnx) else ("torch",)
        return ("numpy", *onnx, *torch)

    def metadata(self, key: str) -> str | None:
        """What the first model says of itself under ``key``; checkpoints say nothing."""
        return self.onnx[0].metadata(key) if self.onnx[0] else None

    def as_written(self) -> list[Session]:
        """All models, run operator by operator; NoKernelError where onnxruntime lacks one."""
        if not any(self.onnx):
            return self.in_torch(self.opening["inputs"])
        return self._beside_torch(self._in_ort(optimise=False))

    def in_reference(self) -> list[Session]:
        """ONNX models in onnx's reference implementation, which knows every operator and is slow; others in torch."""
        from bnfold.runtime import onnx_reference

        return self._beside_torch([onnx_reference.open_session(path) for path in self._paths(is_onnx=True)])

    def _beside_torch(self, in_onnx: Sequence[Session]) -> list[Session]:
        """These sessions, and between them in torch those of the others, which say less of what they take."""
        examples = self.opening["inputs"]
        if examples is None and in_onnx:
            examples = examples_for(in_onnx[0].inputs)
        in_torch = iter(self.in_torch(examples, is_batch_fixed=any(map(_is_fixed, in_onnx))))
        others = iter(in_onnx)
        return [next(others if model else in_torch) for model in self.onnx]

    def _paths(self, *, is_onnx: bool) -> list[Path]:
        return [path for path, model in zip(self.paths, self.onnx, strict=True) if (model is not None) is is_onnx]

    def as_deployed(self, threads: int | None = None) -> list[Session] | None:
        """All models as onnxruntime rewrites them by default; None where one is PyTorch's, or it lacks a kernel."""
        if not all(self.onnx):
            return None
        try:
            return self._in_ort(optimise=True, threads=threads)
        except NoKernelError:
            return None

    def _in_ort(self, *, optimise: bool, threads: int | None = None) -> list[Session]:
        """The ONNX models in onnxruntime; NoKernelError where it would end the process, too."""
        from bnfold.runtime import ort

        for model in filter(None, self.onnx):
            _require_all_outputs(model)
        return [ort.open_session(path, optimise=optimise, threads=threads) for path in self._paths(is_onnx=True)]

    def in_torch(self, examples: GivenInputs, *, is_batch_fixed: bool = False) -> list[Session]:
        """The models that are PyTorch's in eager mode, on the example inputs of the first."""
        paths = self._paths(is_onnx=False)
        if not paths:
            return []
        from bnfold.formats.opening import open_torch
        from bnfold.runtime import torch_eager

        models = [open_torch(path, **self._opening_of(path, examples)) for path in paths]
        is_fixed = is_batch_fixed or any(model.is_batch_fixed for model in models)
        return [torch_eager.open_session(model.module, models[0].inputs, is_batch_fixed=is_fixed) for model in models]

    def _opening_of(self, path: Path, examples: GivenInputs) -> Opening:
        """How to open the file at ``path``: a key is for those that have keys."""
        keyed = [require_model(item) in KEYED for item in self.paths]
        opening = self.opening.copy()
        opening["inputs"] = examples
        if any(keyed) and require_model(path) not in KEYED:
            opening["key"] = None
        return opening

    @contextmanager
    def watched(self) -> Iterator[list[Session]]:
        """Both models with inner values, which folding leaves as they are, for outputs; empty where there are none.

        What torch exports to ONNX has no names of the module's inside.
        """
        in_onnx = [model for model in self.onnx if model]
        if 0 < len(in_onnx) < len(self.onnx):
            yield []
            return
        with _watched_onnx(*in_onnx) if in_onnx else self._watched_torch() as sessions:
            yield sessions

    @contextmanager
    def _watched_torch(self) -> Iterator[list[Session]]:
        from bnfold.formats.opening import open_torch
        from bnfold.formats.torch.watching import Watching, activations
        from bnfold.runtime import torch_eager

        models = [open_torch(path, **self._opening_of(path, self.opening["inputs"])) for path in self.paths]
        original, folded = (activations(model.module) for model in models)
        names = [name for name in original if name in folded]
        yield [torch_eager.open_session(Watching(model.module, names), models[0].inputs) for model in models if names]

    def timed(self, runtime: str, threads: int | None) -> list[Session]:
        """All models in one runtime, for timing."""
        if runtime not in self.runtimes():
            kind = "ONNX models" if all(self.onnx) else "PyTorch checkpoints"
            raise UsageError(
                f"the runtime {runtime!r} does not run {kind}",
                remedy=f"leave --runtime out, or give {' or '.join(self.runtimes())}",
            )
        if runtime == "torch":
            return self.in_torch(self.opening["inputs"])
        return self._in_ort(optimise=runtime == "ort", threads=threads)

    def runtimes(self) -> tuple[str, ...]:
        """The runtimes that can run these models.

        ``ort`` is onnxruntime as deployed, ``ort-off`` with its optimisations off, ``torch`` PyTorch eager.
        """
        if any(self.onnx) and not all(self.onnx):
            raise UsageError(
                "an ONNX model and a PyTorch checkpoint cannot be timed in one runtime",
                where=", ".join(map(str, self.paths)),
                remedy="export both to ONNX, or give both as checkpoints",
            )
        return ("ort", "ort-off") if all(self.onnx) else ("torch",)

    @contextmanager
    def threads(self, count: int | None) -> Iterator[None]:
        """Limit torch's threads for a while; onnxruntime's belong to its sessions."""
        if all(self.onnx):
            yield
            return
        from bnfold.runtime.torch_eager import limited_threads

        with limited_threads(count):
            yield


def _require_all_outputs(model: OnnxModel) -> None:
    for name in model.lacking_outputs:
        raise NoKernelError(
            f"onnxruntime crashes on the batch norm {name!r}, which leaves an output out",
            remedy="export the model for inference, so that its batch norms have one output",
        )


def _onnx_model(path: Path) -> OnnxModel | None:
    if require_model(path) is not Kind.ONNX:
        return None
    from bnfold.formats.onnx.model import OnnxModel

    return OnnxModel.load(path)


@contextmanager
def _watched_onnx(*models: OnnxModel) -> Iterator[list[Session]]:
    from bnfold.formats.onnx.watching import comparable_values, watched_files

    values = [] if any(model.lacking_outputs for model in models) else comparable_values(*models)
    with ExitStack() as stack:
        yield [stack.enter_context(onnx_session(partial(watched_files, model, values))) for model in models if values]


def _is_fixed(session: Session) -> bool:
    """Whether a model takes one number of samples only."""
    return any(isinstance(size, int) for spec in session.inputs for size in (spec.shape or ())[:1])
