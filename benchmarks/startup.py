"""How long ``bnfold --help`` takes, as a multiple of ``import click``: paired runs in turn, so that noise hits both."""

from __future__ import annotations

import statistics
import sys

from arguments import parser
from convert import run

RUNS = 40
IMPORT_CLICK = [sys.executable, "-c", "import click"]
HELP = [sys.executable, "-m", "bnfold", "--help"]


def main() -> None:
    """Print both medians and their ratio."""
    parser(__doc__).parse_args()
    pairs = [(run(IMPORT_CLICK).seconds, run(HELP).seconds) for _ in range(RUNS + 1)][1:]  # the first warms up
    click_ms, help_ms = (statistics.median(times) * 1000 for times in zip(*pairs, strict=True))
    ratio = statistics.median(help_seconds / click_seconds for click_seconds, help_seconds in pairs)
    print(f"import click    {click_ms:7.1f} ms")
    print(f"bnfold --help   {help_ms:7.1f} ms")
    print(f"ratio           {ratio:7.2f}    (median of {RUNS} paired runs; the limit is 1.6)")


if __name__ == "__main__":
    main()
