"""Labelled inputs: MNIST and a user's own arrays.

This room uses NumPy and the standard library; ``pooch`` belongs to the download, which has a file of its own.
"""

from __future__ import annotations

import os
from pathlib import Path

from bnfold.data.dataset import DataSet
from bnfold.data.mnist import Place, Split, is_found, load_mnist, places
from bnfold.data.npz import from_arrays, load_npz
from bnfold.errors import DataError

__all__ = ["DataSet", "Place", "Split", "from_arrays", "is_found", "load", "load_mnist", "load_npz", "places"]


def load(name: str, *, split: Split = "test") -> DataSet:
    """The data set that ``--data NAME`` means: ``mnist``, an ``.npz`` file, or a directory that holds MNIST.

    ``split`` chooses among MNIST's two; a user's own file has one. Raises DataError where there is no such data set
    or MNIST is not the published one, InputError for a malformed file, UnsafeError for one beyond the size limit.
    """
    if name == "mnist":
        return load_mnist(split)
    path = Path(name)
    if os.path.isdir(path):  # noqa: PTH112 - Path.is_dir and is_file raise PermissionError before Python 3.14
        return load_mnist(split, path)
    if os.path.isfile(path) or path.suffix == ".npz":  # noqa: PTH113 - as above
        return load_npz(path)
    raise DataError(
        f"there is no data set '{name}'",
        where="known: mnist, a FILE.npz, or a directory with MNIST's files",
        remedy="check the spelling, or the path",
    )
