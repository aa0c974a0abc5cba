"""Downloading MNIST: the only code of bnfold's that uses the network, and the home of ``pooch``.

Two places publish the four files; the second is asked where the first fails. What either gives is trusted only after
the SHA-256 of its uncompressed contents, the one that ``load_mnist`` checks too.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

from bnfold.data.idx import IdxFile, is_compressed, parse_idx, read_idx
from bnfold.data.mnist import FILES, default_directory, present
from bnfold.data.npz import one_line
from bnfold.errors import DataError
from bnfold.files.locking import locked
from bnfold.files.writing import create_folder, write_atomically

HOSTS: Final = (
    "https://ossci-datasets.s3.amazonaws.com/mnist",
    "https://storage.googleapis.com/cvdf-datasets/mnist",
)

_PATIENCE_SECONDS: Final = (10.0, 30.0)  # to connect, and between two pieces
_PIECE_BYTES: Final = 1 << 16
_LOCK: Final = ".bnfold-fetch.lock"

Progress = Callable[[str, int, int], object]
"""Called with what is being downloaded, how many kB of it are here, and how many there will be."""


class Fetched(NamedTuple):
    """One file: where it lies, the address it came from (empty: it was there), and what other addresses gave."""

    path: Path
    size_bytes: int
    address: str
    failures: tuple[str, ...]


def fetch_mnist(directory: Path | None, *, progress: Progress, waiting: Callable[[], object]) -> tuple[Fetched, ...]:
    """Put MNIST's four files into ``directory`` (None: the cache), as they are published: gzip-compressed IDX.

    Files that are there and right are left alone; of several processes one downloads, and the others, after a call of
    ``waiting``, find the files. Raises DataError where a file is to be had nowhere, or another one has its name, and
    OutputError where it cannot be written.
    """
    folder = directory or default_directory()
    create_folder(folder)
    with locked(folder / _LOCK, waiting):
        return tuple(_fetched(folder, file, progress) for files in FILES.values() for file in files)


def _fetched(folder: Path, file: IdxFile, progress: Progress) -> Fetched:
    path = present(folder, file)
    if path is not None:
        _check_present(path, file)
        return Fetched(path, path.stat().st_size, "", ())
    failures: list[str] = []
    for host in HOSTS:
        address = f"{host}/{file.name}.gz"
        try:
            content = _downloaded(address, file, progress)
        except DataError as error:
            failures.append(f"{address}: {error.what}")
        except (OSError, ValueError) as error:  # OSError is the parent of all that requests raises
            failures.append(f"{address}: {_said(error)}")
        else:
            path = folder / (f"{file.name}.gz" if is_compressed(content) else file.name)
            write_atomically(path, content, force=False)
            return Fetched(path, len(content), address, tuple(failures))
    names = ", ".join(f"{item.name}.gz" for files in FILES.values() for item in files)
    raise DataError(
        f"MNIST's {file.name}.gz could not be downloaded",
        where="; ".join(failures),
        remedy=f"without a network: download {names} from either place on another machine, and copy them into {folder}",
    )


def _check_present(path: Path, file: IdxFile) -> None:
    """A file of this name with other contents (Fashion-MNIST has the same names) is somebody's, and stays."""
    try:
        read_idx(path, file)
    except DataError as error:
        raise DataError(
            error.what, where=error.where, remedy="move it away, or name another folder with --dir DIR"
        ) from error


def _downloaded(address: str, file: IdxFile, progress: Progress) -> bytes:
    """The content at ``address``, which is the published file's. Raises DataError, or what requests raises."""
    from pooch import HTTPDownloader

    stream = io.BytesIO()
    meter = _Meter(file, progress)
    HTTPDownloader(progressbar=meter, chunk_size=_PIECE_BYTES, timeout=_PATIENCE_SECONDS)(address, stream, None)
    content = stream.getvalue()
    if content.lstrip().startswith(b"<"):
        raise DataError("an HTML page instead of the file (a log-in or a proxy?)")
    parse_idx(content, file, address)
    return content


class _Meter:
    """What pooch calls a progress bar; it also ends a download that is larger than the uncompressed file."""

    def __init__(self, file: IdxFile, progress: Progress) -> None:
        self.total = 0  # set by pooch to the length that the server announces, 0 where it announces none
        self._done = 0
        self._file = file
        self._progress = progress

    def update(self, count: int) -> None:
        self._done += count
        if self._done > self._file.size_bytes + _PIECE_BYTES:
            raise DataError(f"more than the {self._file.size_bytes} bytes of the uncompressed file")
        total = self.total or self._file.size_bytes
        self._progress(f"{self._file.name}.gz, kB", min(self._done, total) // 1000, total // 1000)

    def reset(self) -> None:
        self._done = 0

    def close(self) -> None:
        """Whoever draws the progress clears it."""


def _said(error: Exception) -> str:
    """What went wrong in a few words: the status, or the innermost error (requests wraps urllib3's, which wraps it)."""
    response = getattr(error, "response", None)
    if response is not None:
        return f"HTTP {response.status_code}"
    root: BaseException = error
    while root.__context__ is not None:
        root = root.__context__
    return str(getattr(root, "strerror", None) or one_line(root))
