from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from bnfold.errors import OutputError
from bnfold.files.writing import check_target, create_folder, write_atomically, write_together


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def failing(error: BaseException) -> Callable[[BinaryIO], None]:
    """Content that breaks off in the middle."""

    def write(stream: BinaryIO) -> None:
        stream.write(b"half of the mo")
        stream.flush()
        raise error

    return write


# Refusals


def test_an_existing_file_needs_force(tmp_path: Path) -> None:
    path = tmp_path / "out.onnx"
    path.write_bytes(b"old")
    with pytest.raises(OutputError, match=r"exists already\n.*--force"):
        write_atomically(path, b"new", force=False)
    assert path.read_bytes() == b"old"


def test_a_file_that_appears_during_the_work_is_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "out.onnx"

    def write(stream: BinaryIO) -> None:
        stream.write(b"ours")
        path.write_bytes(b"theirs")

    with pytest.raises(OutputError, match="exists already"):
        write_atomically(path, write, force=False)
    assert path.read_bytes() == b"theirs"
    assert names(tmp_path) == {"out.onnx"}


@pytest.mark.parametrize("way", ["itself", "another spelling", "symbolic link", "hard link"])
def test_the_input_is_never_replaced_even_with_force(tmp_path: Path, way: str) -> None:
    source = tmp_path / "model.onnx"
    source.write_bytes(b"model")
    path = tmp_path / "link.onnx"
    if way == "itself":
        path = source
    elif way == "another spelling":
        path = tmp_path / ".." / tmp_path.name / "model.onnx"
    elif way == "symbolic link":
        path.symlink_to(source)
    else:
        path.hardlink_to(source)
    with pytest.raises(OutputError, match="is the input, which is never overwritten"):
        write_atomically(path, b"new", force=True, inputs=[source])
    assert source.read_bytes() == b"model"


def test_an_input_that_has_gone_refuses_nothing(tmp_path: Path) -> None:
    (tmp_path / "out.onnx").touch()
    write_atomically(tmp_path / "out.onnx", b"new", force=True, inputs=[tmp_path / "gone.onnx"])
    assert (tmp_path / "out.onnx").read_bytes() == b"new"


def test_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="is a folder\nname a file in it"):
        write_atomically(tmp_path, b"new", force=True)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_or_device_is_not_replaced_by_a_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "out.onnx")
    with pytest.raises(OutputError, match="is no ordinary file"):
        write_atomically(tmp_path / "out.onnx", b"new", force=True)
    assert stat.S_ISFIFO((tmp_path / "out.onnx").stat().st_mode)


def test_a_missing_folder_is_named_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"there is no folder .*models\ncreate it first"):
        check_target(tmp_path / "models" / "out.onnx", force=False)


def test_a_folder_is_created_with_those_above_it_once(tmp_path: Path) -> None:
    create_folder(tmp_path / "a" / "b")
    create_folder(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()


def test_a_folder_cannot_be_created_below_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=r"cannot create the folder .*Not a directory\n.*choose another name"):
        create_folder(tmp_path / "file" / "folder")


def test_a_folder_cannot_be_created_where_a_file_has_its_name(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=r"File exists\na file has that name: choose another one"):
        create_folder(tmp_path / "file")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_named_before_any_work(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(OutputError, match="no permission"):
        check_target(tmp_path / "out.onnx", force=False)


def test_a_name_that_is_too_long_is_an_output_error(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="too long\nchoose a shorter name"):
        write_atomically(tmp_path / ("x" * 300), b"new", force=False)
    assert names(tmp_path) == set()


# Failures


@pytest.mark.parametrize("existing", [True, False], ids=["over an old file", "a new file"])
@pytest.mark.parametrize(
    ("error", "raised"),
    [
        pytest.param(OSError(errno.ENOSPC, "No space left on device"), OutputError, id="disk full"),
        pytest.param(OSError(errno.EDQUOT, "Disk quota exceeded"), OutputError, id="quota"),
        pytest.param(ValueError("a bug"), ValueError, id="a bug"),
        pytest.param(KeyboardInterrupt(), KeyboardInterrupt, id="Ctrl-C"),
        pytest.param(SystemExit(143), SystemExit, id="SIGTERM"),
    ],
)
def test_a_failure_leaves_the_folder_as_it_was(
    tmp_path: Path, error: BaseException, raised: type[BaseException], *, existing: bool
) -> None:
    path = tmp_path / "out.onnx"
    if existing:
        path.write_bytes(b"old")
    with pytest.raises(raised):
        write_atomically(path, failing(error), force=True)
    assert names(tmp_path) == ({"out.onnx"} if existing else set())
    assert not existing or path.read_bytes() == b"old"


def test_a_full_disk_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"cannot write .*out\.onnx: No space left on device\nfree some space"):
        write_atomically(tmp_path / "out.onnx", failing(OSError(errno.ENOSPC, "No space left on device")), force=False)


@pytest.mark.parametrize("system_call", ["fsync", "replace"])
def test_a_system_call_that_fails_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, system_call: str
) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(errno.EIO, "Input/output error")

    path = tmp_path / "out.onnx"
    path.write_bytes(b"old")
    if system_call == "fsync":
        monkeypatch.setattr("os.fsync", refuse)
    else:
        monkeypatch.setattr("pathlib.Path.replace", refuse)
    with pytest.raises(OutputError, match="Input/output error"):
        write_atomically(path, b"new", force=True)
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == {"out.onnx"}


# Successes


def test_the_data_are_on_the_disk_before_they_get_their_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "out.onnx"
    synced: list[tuple[int, bool]] = []
    monkeypatch.setattr("os.fsync", lambda descriptor: synced.append((os.fstat(descriptor).st_size, path.exists())))
    write_atomically(path, b"model", force=False)
    assert synced == [(5, False)]
    assert path.read_bytes() == b"model"


def test_a_function_may_write_the_content(tmp_path: Path) -> None:
    write_atomically(tmp_path / "out.onnx", lambda stream: stream.writelines([b"mo", b"del"]), force=False)
    assert (tmp_path / "out.onnx").read_bytes() == b"model"


@pytest.mark.skipif(os.name == "nt", reason="needs POSIX permissions")
@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_a_new_file_has_the_permissions_that_the_umask_leaves(tmp_path: Path, umask: int, mode: int) -> None:
    before = os.umask(umask)
    try:
        write_atomically(tmp_path / "out.onnx", b"model", force=False)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "out.onnx").stat().st_mode) == mode


@pytest.mark.skipif(os.name == "nt", reason="needs POSIX permissions")
def test_a_replaced_file_keeps_its_permissions(tmp_path: Path) -> None:
    path = tmp_path / "out.onnx"
    path.touch()
    path.chmod(0o640)
    write_atomically(path, b"model", force=True)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_through_a_link_its_target_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "v1.onnx").write_bytes(b"old")
    (tmp_path / "latest.onnx").symlink_to("v1.onnx")
    write_atomically(tmp_path / "latest.onnx", b"new", force=True)
    assert (tmp_path / "latest.onnx").is_symlink()
    assert (tmp_path / "v1.onnx").read_bytes() == b"new"


def test_the_longest_name_that_a_file_can_have_can_be_written(tmp_path: Path) -> None:
    path = tmp_path / ("x" * 250 + ".onnx")
    write_atomically(path, b"model", force=False)
    assert names(tmp_path) == {path.name}


# Files that belong together


def test_two_files_are_both_written(tmp_path: Path) -> None:
    data, model = tmp_path / "model.data", tmp_path / "model.onnx"
    data.write_bytes(b"old data")
    write_together({data: b"data", model: b"model"}, force=True)
    assert (data.read_bytes(), model.read_bytes()) == (b"data", b"model")
    assert names(tmp_path) == {"model.data", "model.onnx"}


def test_when_the_second_cannot_be_written_the_first_is_not(tmp_path: Path) -> None:
    data, model = tmp_path / "model.data", tmp_path / "model.onnx"
    with pytest.raises(OutputError):
        write_together({data: b"data", model: failing(OSError(errno.ENOSPC, "full"))}, force=False)
    assert names(tmp_path) == set()


def test_when_the_second_exists_already_the_first_is_not_written(tmp_path: Path) -> None:
    data, model = tmp_path / "model.data", tmp_path / "model.onnx"
    model.write_bytes(b"old")
    with pytest.raises(OutputError, match=r"model\.onnx exists already"):
        write_together({data: b"data", model: b"model"}, force=False)
    assert names(tmp_path) == {"model.onnx"}


@pytest.mark.parametrize("hard_links", [True, False], ids=["with hard links", "without hard links"])
@pytest.mark.parametrize("existing", [True, False], ids=["over old files", "new files"])
def test_when_the_second_rename_fails_the_first_is_undone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, existing: bool, hard_links: bool
) -> None:
    data, model = tmp_path / "model.data", tmp_path / "model.onnx"
    if existing:
        data.write_bytes(b"old data")
        model.write_bytes(b"old model")
    replace = Path.replace

    def replace_but_not_the_model(self: Path, target: Path) -> Path:
        if target.name == "model.onnx" and self.suffix == ".tmp":
            raise OSError(errno.EIO, "Input/output error")
        return replace(self, target)

    def no_hard_links(*_: Any) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr("pathlib.Path.replace", replace_but_not_the_model)
    if not hard_links:
        monkeypatch.setattr("pathlib.Path.hardlink_to", no_hard_links)
    with pytest.raises(OutputError, match="Input/output error"):
        write_together({data: b"data", model: b"model"}, force=True)
    assert names(tmp_path) == ({"model.data", "model.onnx"} if existing else set())
    assert not existing or (data.read_bytes(), model.read_bytes()) == (b"old data", b"old model")
