"""A zip archive is whole, or the record that is not is named."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from bnfold.errors import InputError, UnsafeError
from bnfold.files.archive import require_intact


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    path = tmp_path / "net.pt"
    with zipfile.ZipFile(path, "w") as opened:
        opened.writestr("net/data.pkl", b"pickle" * 100)
        opened.writestr("net/data/0\n", b"tensor" * 100)
    return path


def test_a_whole_archive_passes(archive: Path) -> None:
    require_intact(archive)


def test_a_flipped_bit_names_its_record_on_one_line(archive: Path) -> None:
    content = bytearray(archive.read_bytes())
    content[content.index(b"tensortensor") + 7] ^= 1
    archive.write_bytes(content)
    with pytest.raises(InputError, match=r"net/data/0\\n") as caught:
        require_intact(archive)
    assert len(str(caught.value).splitlines()) == 3


def test_a_record_without_a_checksum_cannot_be_compared(archive: Path) -> None:
    """torch.serialization.set_crc32_options(False) writes 0 for every one."""
    content = archive.read_bytes()
    with zipfile.ZipFile(archive) as opened:
        for record in opened.infolist():
            content = content.replace(record.CRC.to_bytes(4, "little"), bytes(4))
    archive.write_bytes(content)
    require_intact(archive)


def test_records_that_overlap_are_refused(archive: Path) -> None:
    """Every name of the directory leads to the same bytes: a small file that unpacks to a large one."""
    path = archive.with_name("overlap.pt")
    with zipfile.ZipFile(path, "w") as opened:
        opened.writestr("data", bytes(100_000))
        first = opened.infolist()[0]
        opened.filelist += [first] * 50
    with pytest.raises(UnsafeError, match=r"5,100,000 bytes"):
        require_intact(path)


@pytest.mark.parametrize("end", [-1, -30, -200])
def test_an_archive_without_its_end_is_damaged(archive: Path, end: int) -> None:
    archive.write_bytes(archive.read_bytes()[:end])
    with pytest.raises(InputError, match="damaged"):
        require_intact(archive)
