"""MNIST: where it is looked for, and reading it as the four IDX files or as Keras' ``mnist.npz``.

Whatever the container, the bytes are the published ones: the SHA-256 of each file's uncompressed contents is checked.
"""

from __future__ import annotations

import os
import platform
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

import numpy as np

from bnfold.data.dataset import DataSet
from bnfold.data.idx import IdxFile, check_hash, malformed, read_idx
from bnfold.data.npz import DAMAGE, one_line, read_member
from bnfold.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

Split = Literal["test", "train"]

VARIABLE: Final = "BNFOLD_MNIST"
"""The environment variable that names a directory with MNIST."""

KERAS_FILE: Final = "mnist.npz"
"""The name under which Keras keeps all four arrays."""

_NPY_HEADER_BYTES: Final = 1024  # more than NumPy writes before such an array, 128


class SplitFiles(NamedTuple):
    """The two files of a split."""

    images: IdxFile
    labels: IdxFile


FILES: Final[dict[Split, SplitFiles]] = {
    "test": SplitFiles(
        IdxFile(
            "t10k-images-idx3-ubyte",
            (10_000, 28, 28),
            "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        ),
        IdxFile(
            "t10k-labels-idx1-ubyte",
            (10_000,),
            "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        ),
    ),
    "train": SplitFiles(
        IdxFile(
            "train-images-idx3-ubyte",
            (60_000, 28, 28),
            "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        ),
        IdxFile(
            "train-labels-idx1-ubyte",
            (60_000,),
            "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        ),
    ),
}


class Place(NamedTuple):
    """A directory in which MNIST is looked for, whether a whole split is there, and what was seen or missed."""

    path: Path
    found: bool
    why: str


def load_mnist(split: Split = "test", directory: Path | None = None) -> DataSet:
    """A split of MNIST, raw pixels, from the first place that holds it.

    A ``directory`` that was named is the only place looked in: another copy in its stead would be a surprise. Raises
    DataError where the split is missing, or is not the published one.
    """
    for place in filter(_accessible, _candidates(directory)):
        idx = _find_idx(place, split)
        if idx is not None:
            images, labels = (read_idx(path, file) for path, file in zip(idx, FILES[split], strict=True))
            return DataSet(name="mnist", x=images, y=labels, origin=str(place), images=True)
        if (place / KERAS_FILE).is_file():
            return _load_keras(place / KERAS_FILE, split)
    raise _missing(split, directory)


def is_found(split: Split = "test") -> bool:
    """Whether ``load_mnist`` finds the split without being told where; its contents are not looked at."""
    return any(
        _find_idx(place, split) is not None or (place / KERAS_FILE).is_file()
        for place in filter(_accessible, _candidates(None))
    )


def places(directory: Path | None = None) -> list[Place]:
    """Every place MNIST is looked for, in order, with what is there; looks at names only and reads nothing."""
    return [_look(place) for place in _candidates(directory)]


def default_directory() -> Path:
    """Where MNIST is downloaded to unless a directory is named: the last place it is looked for."""
    return cache_directory(platform.system(), os.environ, Path.home())


def cache_directory(system: str, environment: Mapping[str, str], home: Path) -> Path:
    """The user's cache for MNIST. ``system`` is ``platform.system()``'s word; XDG's variable wins on every system."""
    if environment.get("XDG_CACHE_HOME"):
        return Path(environment["XDG_CACHE_HOME"]) / "bnfold" / "mnist"
    if system == "Darwin":
        return home / "Library" / "Caches" / "bnfold" / "mnist"
    if system == "Windows":
        return Path(environment.get("LOCALAPPDATA") or home / "AppData" / "Local") / "bnfold" / "mnist"
    return home / ".cache" / "bnfold" / "mnist"


def _candidates(directory: Path | None) -> list[Path]:
    """The directories to look in; torchvision keeps its copy of ``DIR`` in ``DIR/MNIST/raw``."""
    if directory is not None:
        bases = [directory]
    else:
        named = os.environ.get(VARIABLE)
        bases = [Path(named)] if named else []
        bases += [Path("data"), default_directory()]
    return [place for base in bases for place in (base, base / "MNIST" / "raw")]


def _accessible(place: Path) -> bool:
    """Whether the directory is there and may be looked into; where it may not, ``Path.is_file`` raises."""
    return os.access(place, os.R_OK | os.X_OK)


def _find_idx(place: Path, split: Split) -> tuple[Path, Path] | None:
    """The paths of a split's images and labels, plain before compressed, or None unless both are there."""
    images, labels = (present(place, file) for file in FILES[split])
    return (images, labels) if images and labels else None


def present(place: Path, file: IdxFile) -> Path | None:
    """Where the file lies in ``place``, plain or compressed, or None."""
    return next((path for path in (place / file.name, place / f"{file.name}.gz") if path.is_file()), None)


def _look(place: Path) -> Place:
    if not os.path.isdir(place):  # noqa: PTH112 - Path.is_dir raises PermissionError before Python 3.14
        return Place(place, found=False, why="no such directory")
    if not _accessible(place):
        return Place(place, found=False, why="no permission to look")
    whole = [split for split in FILES if _find_idx(place, split)]
    if whole:
        return Place(place, found=True, why=f"IDX files: {', '.join(whole)}")
    if (place / KERAS_FILE).is_file():
        return Place(place, found=True, why=f"Keras' {KERAS_FILE}")
    halves = [file.name for files in FILES.values() for file in files if present(place, file)]
    return Place(place, found=False, why=f"only {', '.join(halves)}" if halves else "none of the files")


def _load_keras(path: Path, split: Split) -> DataSet:
    """A split out of Keras' archive. Raises DataError where it is damaged or holds something else."""
    try:
        with zipfile.ZipFile(path) as archive:
            images, labels = (
                _keras_array(archive, path, f"{letter}_{split}", file)
                for letter, file in zip("xy", FILES[split], strict=True)
            )
    except (KeyError, *DAMAGE) as error:
        raise DataError(
            f"MNIST cannot be read: {one_line(error)}",
            where=f"in {path}",
            remedy="replace the file by Keras' own, or name another directory with --data DIR",
        ) from error
    return DataSet(name="mnist", x=images, y=labels, origin=str(path), images=True)


def _keras_array(archive: zipfile.ZipFile, path: Path, name: str, file: IdxFile) -> NDArray[Any]:
    """One member: the same bytes as the IDX file's data, so the same hash holds once its header is put in front."""
    limit_bytes = file.size_bytes + _NPY_HEADER_BYTES
    size_bytes = archive.getinfo(f"{name}.npy").file_size
    if size_bytes > limit_bytes:
        raise malformed(path, file, f"at most {limit_bytes} bytes", str(size_bytes))
    array = read_member(archive, name)
    if array.shape != file.shape or array.dtype != np.uint8:
        raise malformed(path, file, f"uint8 {file.shape}", f"{array.dtype} {array.shape}")
    check_hash(path, array, file)
    return array


def _missing(split: Split, directory: Path | None) -> DataError:
    looked = "; ".join(f"{place.path} ({place.why})" for place in places(directory))
    return DataError(
        f"MNIST's {split} images were not found",
        where=f"looked in: {looked}",
        remedy=f"set {VARIABLE} or give --data DIR: a directory with the IDX files (or .gz) or Keras' {KERAS_FILE}; "
        "or download them: bnfold data fetch mnist",
    )
