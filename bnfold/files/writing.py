"""Putting files in place: all of a file or nothing of it, and never over the input.

Each file is written under another name in the directory it is meant for, flushed to the disk, and renamed. POSIX
``rename`` replaces in one step, so a reader sees the old file or the new one; whatever goes wrong before it (disk
full, no permission, an interrupt) leaves the old one as it was and removes the new.
"""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, cast

from bnfold.errors import OutputError
from bnfold.files.flushing import FlushingFile

if TYPE_CHECKING:
    from _typeshed import SupportsWrite

Content = bytes | Callable[[BinaryIO], object]
"""What goes into a file: its bytes, or a function that writes them."""

_REMEDIES = {
    errno.ENOSPC: "free some space, or write to another disk",
    errno.EDQUOT: "free some of your quota, or write to another disk",
    errno.EACCES: "write to a folder that is yours, or change its permissions",
    errno.EPERM: "write to a folder that is yours, or change its permissions",
    errno.EROFS: "write to another disk",
    errno.EEXIST: "a file has that name: choose another one",
    errno.ENOTDIR: "a file is where a folder should be: choose another name",
    errno.EFBIG: "raise the limit on the size of files (ulimit -f), or write to another disk",
    errno.ENAMETOOLONG: "choose a shorter name",
}


def write_atomically(path: Path, data: Content, *, force: bool, inputs: Iterable[Path] = ()) -> None:
    """Write one file. Without ``force`` an existing one stays; one of ``inputs`` is never replaced.

    A new file gets the permissions that the umask leaves, a replaced one keeps its own; through a link the file
    that it points to is replaced. Raises OutputError, with what was there before intact.
    """
    write_together({path: data}, force=force, inputs=inputs)


def write_together(contents: Mapping[Path, Content], *, force: bool, inputs: Iterable[Path] = ()) -> None:
    """Write files that belong together (a model and its external data): all of them, or none.

    All are complete on the disk before the first is renamed; when a rename fails, those before it are undone. They
    are renamed in the order given: name the file that refers to the others last. Otherwise as write_atomically.
    """
    kept = tuple(inputs)
    targets = [check_target(path, force=force, inputs=kept) for path in contents]
    with ExitStack() as cleaning:
        staged = [
            _stage(path, target, data, cleaning) for (path, data), target in zip(contents.items(), targets, strict=True)
        ]
        for path in contents:
            check_target(path, force=force, inputs=kept)  # the work took a while: somebody may have been faster
        _put_in_place(zip(contents, staged, targets, strict=True), alone=len(staged) == 1)


def put(content: Content, stream: SupportsWrite[bytes | memoryview]) -> None:
    """Write a file's content into a stream."""
    if isinstance(content, bytes):
        stream.write(content)
    else:
        content(cast("BinaryIO", stream))  # whoever gives content writes, and does nothing else to the stream


def put_files(contents: Mapping[Path, Content]) -> None:
    """Write files, with their folders, where nobody sees them yet: neither flushed nor all or none."""
    for path, content in contents.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as stream:
            put(content, stream)


def copy_of(source: Path) -> Content:
    """The content of the file at ``source``, byte for byte."""

    def write(stream: SupportsWrite[bytes | memoryview]) -> None:
        with source.open("rb") as content:
            shutil.copyfileobj(content, stream)

    return write


def check_target(path: Path, *, force: bool, inputs: Iterable[Path] = ()) -> Path:
    """Where ``path`` leads, links followed, if it may be written. Worth asking before long work.

    Raises OutputError where it is one of ``inputs`` (by any name), exists and ``force`` is not given, is no ordinary
    file, or lies in a folder that does not exist or cannot be written to.
    """
    target = Path(os.path.realpath(path))
    try:
        found = target.stat() if target.exists() else None
    except OSError as error:
        raise _failure(path, error) from error
    if found is None:
        _check_folder(path, target.parent)
        return target
    if any(same_file(target, item) for item in inputs):
        raise OutputError(f"{path} is the input, which is never overwritten", remedy="choose another output")
    if stat.S_ISDIR(found.st_mode):
        raise OutputError(f"{path} is a folder", remedy="name a file in it")
    if not stat.S_ISREG(found.st_mode):
        raise OutputError(f"{path} is no ordinary file", remedy="choose another output")
    if not force:
        raise OutputError(f"{path} exists already", remedy="give --force (force=True) to replace it")
    _check_folder(path, target.parent)
    return target


def create_folder(folder: Path) -> None:
    """Make a folder, and those above it, unless it exists. Raises OutputError where that cannot be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        remedy = _REMEDIES.get(error.errno or 0, "")
        raise OutputError(f"cannot create the folder {folder}: {error.strerror or error}", remedy=remedy) from error


@contextmanager
def folder_for_outputs(folder: Path) -> Iterator[None]:
    """The folder is there inside; afterwards it has gone again, if it was made for outputs that never came.

    So have those above it that were made with it. Raises OutputError as ``create_folder`` does.
    """
    made = [place for place in (folder, *folder.parents) if not place.exists()]
    create_folder(folder)
    try:
        yield
    finally:
        with suppress(OSError):  # something lies in it, and in all above it
            for place in made:
                place.rmdir()


def same_file(path: Path, other: Path) -> bool:
    """Whether two names lead to one file, links of both kinds included; the file need not exist yet."""
    try:
        return path.samefile(other)
    except FileNotFoundError:
        return os.path.realpath(path) == os.path.realpath(other)


def _check_folder(path: Path, folder: Path) -> None:
    if not folder.is_dir():
        raise OutputError(f"cannot write {path}: there is no folder {folder}", remedy="create it first")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise OutputError(f"cannot write {path}: no permission in {folder}", remedy=_REMEDIES[errno.EACCES])


def _stage(path: Path, target: Path, data: Content, cleaning: ExitStack) -> Path:
    """The complete contents beside ``target``, under a name that ``cleaning`` removes.

    The removal is arranged before the file exists, so that no interrupt can fall between the two. The name does not
    grow from the target's, which may already be as long as a name can be.
    """
    temporary = target.with_name(f".bnfold-{secrets.token_hex(8)}.tmp")
    cleaning.callback(temporary.unlink, missing_ok=True)
    try:
        with FlushingFile(temporary) as stream:
            if target.exists():
                temporary.chmod(stat.S_IMODE(target.stat().st_mode))
            put(data, stream)
            stream.settle()
    except OSError as error:
        raise _failure(path, error) from error
    return temporary


def _put_in_place(files: Iterable[tuple[Path, Path, Path]], *, alone: bool) -> None:
    """Rename each ``(path, temporary, target)``, or none; a file that is alone has nobody to go back for."""
    backups: list[Path] = []
    with ExitStack() as undo:
        for path, temporary, target in files:
            try:
                if not alone:
                    backups += _arrange_return(target, undo)
                temporary.replace(target)
            except OSError as error:
                raise _failure(path, error) from error
        undo.pop_all()
    for backup in backups:
        backup.unlink(missing_ok=True)


def _arrange_return(target: Path, undo: ExitStack) -> list[Path]:
    """Keep the old file, if there is one, under a second name until all renames are done."""
    if not target.exists():
        undo.callback(target.unlink, missing_ok=True)
        return []
    backup = target.with_name(f".bnfold-{secrets.token_hex(8)}.old")
    undo.callback(_go_back, backup, target)
    try:
        backup.hardlink_to(target)
    except OSError:  # a file system without hard links: the target is missing for a moment
        target.rename(backup)
    return [backup]


def _go_back(backup: Path, target: Path) -> None:
    if not backup.exists():
        return
    backup.replace(target)
    backup.unlink(missing_ok=True)  # POSIX: renaming one name of a file to another of its names leaves both


def _failure(path: Path, error: OSError) -> OutputError:
    remedy = _REMEDIES.get(error.errno or 0, "")
    return OutputError(f"cannot write {path}: {error.strerror or error}", remedy=remedy)
