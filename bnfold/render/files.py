"""The lines that say what was measured, and where: files and environments."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from bnfold.files.names import printable
from bnfold.render.numbers import counted, size
from bnfold.render.page import Column, Page, Table

if TYPE_CHECKING:
    from bnfold.records import Environment, FileRecord


def file_table(files: Mapping[str, FileRecord], page: Page) -> Table:
    """The files by the part they play: path, format, size; with details the hash too."""
    columns = (Column("model"), Column("file", wraps=True), Column("format", drop=1), Column("size", "right", drop=2))
    rows = [
        (part, printable(file.path), file.format, size(file.bytes + sum(item.bytes for item in file.external)))
        for part, file in files.items()
    ]
    if not page.details:
        return Table(columns, rows)
    hashes = (file.sha256 for file in files.values())
    return Table(
        (*columns, Column("sha256", drop=3)), [(*row, sha256) for row, sha256 in zip(rows, hashes, strict=True)]
    )


def environment_line(environment: Environment) -> str:
    """Processor, threads and versions in one line."""
    cores = counted(environment.cpu_count, "core")
    threads = "" if environment.threads is None else f", {counted(environment.threads, 'thread')}"
    packages = ", ".join(f"{name} {version}" for name, version in environment.packages.items())
    versions = f"Python {environment.python}, {packages}" if packages else f"Python {environment.python}"
    return printable(f"{environment.processor}, {cores}{threads}; {versions}; {environment.platform}")
