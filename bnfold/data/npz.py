"""Reading .npz archives without running anything: a user's own samples, and the members of Keras' ``mnist.npz``."""

from __future__ import annotations

import tokenize
import zipfile
import zlib
from contextlib import contextmanager
from textwrap import shorten
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from bnfold.data.dataset import DataSet
from bnfold.errors import InputError, UnsafeError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

LIMIT_BYTES: Final = 4 << 30
"""The largest uncompressed array that is read: an archive of a few megabytes can claim to hold terabytes."""

# What zipfile and numpy.lib.format raise on damaged or hostile archives. NumPy's ValueError covers most broken
# headers, missing bytes and, with allow_pickle=False, pickled objects; the rest were found by altering bytes at random.
DAMAGE: Final = (
    OSError,
    EOFError,
    ValueError,
    TypeError,
    OverflowError,
    SyntaxError,
    tokenize.TokenError,
    MemoryError,
    RuntimeError,
    zipfile.BadZipFile,
    zlib.error,
)

_WIDTH: Final = 150  # characters of a message that come out of the file

_EXPECTED: Final = (
    "an .npz for bnfold holds `x`, numbers with the samples on the first axis, and optionally `y`, (N,) integers"
)


def load_npz(path: Path) -> DataSet:
    """A user's own samples: ``x``, and labels ``y`` where the archive holds them.

    ``images`` is set for uint8 of rank 3 or 4, the shapes of raw pixels; all other arrays reach the model as they
    are. Raises InputError for a file that is missing or malformed, UnsafeError where an array passes the limit.
    """
    with _complaints_about(path), zipfile.ZipFile(path) as archive:
        held = [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]
        if "x" not in held:
            others = shorten(", ".join(map(repr, held)), width=_WIDTH, placeholder="…")
            raise _refusal(path, f"there is no `x` in the archive, {f'only {others}' if others else 'which is empty'}")
        x = read_member(archive, "x")
        y = read_member(archive, "y") if "y" in held else None
    return _checked(DataSet(name=path.name, x=x, y=y, origin=str(path), images=_holds_pixels(x)))


def from_arrays(x: NDArray[Any], y: NDArray[Any] | None = None) -> DataSet:
    """Samples that are in memory already; as for ``load_npz``, InputError included."""
    return _checked(DataSet(name="arrays", x=x, y=y, origin="memory", images=_holds_pixels(x)))


def read_member(archive: zipfile.ZipFile, name: str) -> NDArray[Any]:
    """One array of an .npz archive. Raises UnsafeError above LIMIT_BYTES, and what NumPy raises on damage."""
    member = archive.getinfo(f"{name}.npy")
    if member.file_size > LIMIT_BYTES:
        raise UnsafeError(
            f"`{name}` unpacks to {member.file_size} bytes; at most {LIMIT_BYTES} are read",
            where=f"in {archive.filename}",
            remedy="store fewer samples",
        )
    with archive.open(member) as stream:  # stops at file_size, whatever the compressed bytes go on to claim
        array: NDArray[Any] = np.lib.format.read_array(stream, allow_pickle=False)
    return array


def one_line(error: BaseException) -> str:
    """What an error says, in one line; its kind where it says nothing."""
    said = error.args[0] if isinstance(error, KeyError) else error  # a KeyError prints as its quoted argument
    return shorten(str(said), width=_WIDTH, placeholder="…") or type(error).__name__


@contextmanager
def _complaints_about(path: Path) -> Iterator[None]:
    """Turn what damaged archives raise into InputError."""
    try:
        yield
    except FileNotFoundError as error:
        raise _refusal(path, "the file does not exist") from error
    except DAMAGE as error:
        raise _refusal(path, one_line(error)) from error


def _holds_pixels(x: NDArray[Any]) -> bool:
    return x.dtype == np.uint8 and x.ndim in {3, 4}


def _checked(data: DataSet) -> DataSet:
    """``data``, whose samples are numbers, each with a label or none."""
    x, y, origin = data.x, data.y, data.origin
    if x.dtype.kind not in "biuf":
        raise _refusal(origin, f"`x` holds {x.dtype}, which is no number")
    if x.ndim == 0 or len(x) == 0:
        raise _refusal(origin, f"`x` has shape {x.shape}: no samples")
    if y is not None and y.dtype.kind not in "iu":
        raise _refusal(origin, f"`y` holds {y.dtype}, expected integers")
    if y is not None and y.shape != (len(x),):
        raise _refusal(origin, f"`y` has shape {y.shape}, expected ({len(x)},) for {len(x)} samples in `x`")
    return data


def _refusal(origin: Path | str, what: str) -> InputError:
    return InputError(f"cannot read samples: {what}", where=f"in {origin}", remedy=_EXPECTED)
