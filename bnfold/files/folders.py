"""Folders that hold a model and what belongs to it, as the Hugging Face hub has them: copied whole, or not at all."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from bnfold.errors import InputError, OutputError

WEIGHTS: Final = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin")
"""The names under which a folder holds its weights, in the order in which they are looked for."""
_CONFIG: Final = "config.json"


def is_model_folder(path: Path) -> bool:
    """Whether this is a folder with a model's configuration."""
    return path.is_dir() and (path / _CONFIG).is_file()


def weights_in(folder: Path) -> Path:
    """The file of the weights. InputError where there is none."""
    found = next((folder / name for name in WEIGHTS if (folder / name).is_file()), None)
    if found is None:
        raise InputError(
            "the folder has a config.json and no weights that bnfold can read",
            where=str(folder),
            remedy=f"it looks for {', '.join(WEIGHTS)}",
        )
    return found


def require_new_folder(target: Path, *, force: bool, source: Path) -> None:
    """OutputError where the folder ``target`` cannot be made, lies in ``source``, or exists and may not be replaced."""
    real, inside = Path(os.path.realpath(target)), Path(os.path.realpath(source))
    if real.is_relative_to(inside) or inside.is_relative_to(real):
        raise OutputError(f"{target} is the input, or lies in it", remedy="choose another output")
    if target.exists() and not (force and is_model_folder(target)):
        raise OutputError(
            f"{target} exists already", remedy="choose another output, or give --force for a model's folder"
        )
    if not target.parent.is_dir():
        raise OutputError(f"cannot write {target}: there is no folder {target.parent}", remedy="create it first")


def copy_folder(
    source: Path, target: Path, without: set[Path], write: Callable[[Path], object], *, force: bool
) -> None:
    """Make ``target`` a copy of ``source`` but for some files, instead of which ``write`` puts others into it.

    It is complete under another name before it gets its own; whatever fails before leaves what was there.
    """
    require_new_folder(target, force=force, source=source)
    staged = target.with_name(f".bnfold-{secrets.token_hex(8)}.tmp")
    left_out = {path.name for path in without}

    def ignored(folder: str, names: list[str]) -> set[str]:
        return left_out.intersection(names) if Path(folder) == source else set()

    with ExitStack() as cleaning:
        cleaning.callback(shutil.rmtree, staged, ignore_errors=True)
        try:
            shutil.copytree(source, staged, ignore=ignored)
            write(staged)
            require_new_folder(target, force=force, source=source)
            _put_in_place(staged, target, cleaning)
        except (OSError, shutil.Error) as error:
            raise OutputError(f"cannot write {target}: {getattr(error, 'strerror', None) or error}") from error


def _put_in_place(staged: Path, target: Path, cleaning: ExitStack) -> None:
    """Rename the new folder, once an old one is out of the way; it goes back where that fails."""
    if not target.exists():
        staged.rename(target)
        return
    old = target.with_name(f".bnfold-{secrets.token_hex(8)}.old")
    target.rename(old)
    try:
        staged.rename(target)
    except BaseException:
        old.rename(target)
        raise
    cleaning.callback(shutil.rmtree, old, ignore_errors=True)
