"""The model that comes with bnfold: the smallest of the sample networks, for ``bnfold demo``."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from bnfold.errors import InternalError

NAME: Final = "smallcnn.onnx"

_PACKAGE: Final = Path(__file__).parent.parent


def sample_model() -> Path:
    """Where smallcnn.onnx is: in the installed package, or in a clone in the folder that its package is built from.

    Raises InternalError where it is in neither.
    """
    candidates = (_PACKAGE / "sample" / NAME, _PACKAGE.parent / "sample_models" / NAME)
    found = next((path for path in candidates if path.is_file()), None)
    if found is None:
        raise InternalError(
            f"the sample model {NAME} is missing from this installation",
            where=f"looked at {' and '.join(map(str, candidates))}",
            remedy="install bnfold again",
        )
    return found
