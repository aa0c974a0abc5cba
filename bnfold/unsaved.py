"""Models that lie in no file of the user's become running models: those that are calibrated or looked into."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from bnfold.files.writing import put_files
from bnfold.runtime.session import NoKernelError, Session

if TYPE_CHECKING:
    from bnfold.files.writing import Content
    from bnfold.formats.onnx.statistics import OnnxStatistics
    from bnfold.formats.torch.statistics import TorchStatistics


@contextmanager
def running(statistics: OnnxStatistics | TorchStatistics) -> Iterator[Session]:
    """A model that is being calibrated, as it is now, run operator by operator."""
    if statistics.format == "onnx":
        with onnx_session(statistics.files) as session:
            yield session
        return
    from bnfold.runtime import torch_eager

    yield torch_eager.open_session(statistics.model.module, statistics.inputs)


@contextmanager
def tapping(statistics: OnnxStatistics | TorchStatistics, chosen: Collection[int]) -> Iterator[Session]:
    """A session whose outputs are what goes into the ``chosen`` batch norms, by tap; nothing runs that lies behind."""
    if statistics.format == "onnx":
        with onnx_session(partial(statistics.tapped_files, chosen)) as session:
            yield session
        return
    from bnfold.runtime import torch_eager

    yield torch_eager.open_session(statistics.tapped(chosen), statistics.inputs)


@contextmanager
def onnx_session(files: Callable[[Path], Mapping[Path, Content]]) -> Iterator[Session]:
    """A model in onnxruntime, optimisations off, or in onnx's reference where that lacks a kernel.

    It goes through a temporary file, since protobuf cannot hand a large model over in memory.
    """
    from bnfold.runtime import onnx_reference, ort

    with TemporaryDirectory(prefix="bnfold-") as folder:
        path = Path(folder) / "model.onnx"
        put_files(files(path))
        try:
            session: Session = ort.open_session(path, optimise=False)
        except NoKernelError:
            session = onnx_reference.open_session(path)
        yield session
