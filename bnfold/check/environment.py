"""Where something was measured: without it, a number means little."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from bnfold.records import Environment


def environment(packages: Sequence[str], *, threads: int | None = None) -> Environment:
    """This machine, and the versions of ``packages`` as installed (none is imported; one that is missing is left out).

    ``threads`` is what the user asked for, None for the runtime's own choice.
    """
    versions = {name: installed for name in packages if (installed := _installed(name)) is not None}
    return Environment(
        python=platform.python_version(),
        platform=platform.platform(),
        processor=_processor(Path("/proc/cpuinfo")),
        cpu_count=_usable_processors(),
        threads=threads,
        packages=versions,
    )


def _installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _processor(linux_description: Path) -> str:
    """The processor's name; outside Linux, and where Linux gives none, what Python knows of it."""
    if linux_description.is_file():
        for line in linux_description.read_text(encoding="utf-8", errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name" and value.strip():
                return value.strip()
    return platform.processor() or platform.machine()


def _usable_processors() -> int:
    """The processors that this process may use: in a container often fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
