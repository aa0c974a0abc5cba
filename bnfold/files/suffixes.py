"""What the ending of an output's name promises to whoever opens the file."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from bnfold.errors import UsageError
from bnfold.files.names import printable
from bnfold.files.recognise import Kind

INDEX: Final = ".safetensors.index.json"
"""What the name of an index of shards ends with."""

_CHECKPOINTS: Final = frozenset({Kind.TORCH_ZIP, Kind.TORCH_PICKLE})
_PROMISES: Final = {
    ".onnx": frozenset({Kind.ONNX}),
    ".safetensors": frozenset({Kind.SAFETENSORS}),
    INDEX: frozenset({Kind.SAFETENSORS_INDEX}),
    ".pt": _CHECKPOINTS,
    ".pth": _CHECKPOINTS,
    ".pt2": frozenset({Kind.PT2}),
}
"""The kinds that a name may stand for; other endings (.bin, .ckpt, .pb, none) promise nothing."""


def require_fitting_name(target: Path, kind: Kind, source: Path | None = None) -> None:
    """UsageError where ``target`` is named like another kind of model than ``kind``, which will be written there.

    The kind of ``source`` stays: whoever asks for ``net.pt`` from ``net.safetensors`` expects what is not done. An
    ending that the source has itself is the user's own. Without a source the user has named the kind.
    """
    suffix = suffix_of(target)
    promised = _PROMISES.get(suffix.lower())
    if promised is None or kind in promised or (source is not None and suffix == suffix_of(source)):
        return
    why = "as --to says" if source is None else "like the input"
    can_become = source is not None and kind is not Kind.ONNX and suffix != INDEX
    other = f", or give --to {suffix.lower().removeprefix('.').replace('pth', 'pt')}" if can_become else ""
    raise UsageError(
        f"{printable(str(target))} would not be what its name says: the output is {kind.value}, {why}",
        remedy=f"name it {printable(str(target).removesuffix(suffix) + fitting_suffix(kind))}{other}",
    )


def fitting_suffix(kind: Kind) -> str:
    """The usual ending of a kind of model."""
    return next(suffix for suffix, kinds in _PROMISES.items() if kind in kinds)


def suffix_of(path: Path) -> str:
    """The ending of a name, which for an index of shards has dots inside."""
    return INDEX if path.name.endswith(INDEX) else path.suffix
