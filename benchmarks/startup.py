"""How long ``bnfold --help`` takes, as a multiple of ``import click``: paired runs in turn, so that noise hits both."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

RUNS = 40
IMPORT_CLICK = [sys.executable, "-c", "import click"]
HELP = [sys.executable, "-m", "bnfold", "--help"]


def seconds(command: list[str]) -> float:
    """The wall time of one run."""
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)  # noqa: S603 - commands of our own
    return time.perf_counter() - start


def main() -> None:
    """Print both medians and their ratio."""
    pairs = [(seconds(IMPORT_CLICK), seconds(HELP)) for _ in range(RUNS)]
    click_ms, help_ms = (statistics.median(times) * 1000 for times in zip(*pairs, strict=True))
    ratio = statistics.median(help_seconds / click_seconds for click_seconds, help_seconds in pairs)
    print(f"import click    {click_ms:7.1f} ms")
    print(f"bnfold --help   {help_ms:7.1f} ms")
    print(f"ratio           {ratio:7.2f}    (median of {RUNS} paired runs; the limit is 1.6)")


if __name__ == "__main__":
    main()
