"""A model may name files, but only such as lie below its own folder."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath, PureWindowsPath


def contained(owner: Path, location: str) -> Path | None:
    """The file that ``location`` means in the file ``owner``; None unless it lies below its folder, links resolved.

    Where the owner itself is a link, files beside its target count as well: in the Hugging Face cache a model and the
    files that it names are all links into one folder.
    """
    foreign = PureWindowsPath(location)
    parts = (*PurePosixPath(location).parts, *foreign.parts)
    if not location or os.path.isabs(location) or foreign.drive or foreign.root or ".." in parts:  # noqa: PTH117 - of a string
        return None
    file = Path(os.path.realpath(owner.parent / location))
    homes = (Path(os.path.realpath(owner.parent)), Path(os.path.realpath(owner)).parent)
    return file if any(file.is_relative_to(home) for home in homes) else None
