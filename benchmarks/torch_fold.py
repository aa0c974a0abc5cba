"""What folding a module takes beside running it: a network of ResNet-50's size, one image of 224×224.

The time is processor time in one thread, and beside it that of the clock, in forward passes of the network with its
batch norms, measured in turn with the fold; the memory is given in sizes of the network, beyond what the network and
one forward pass take. It is the most that a process held (VmHWM of Linux, which starts anew with each process), each
case in a process of its own.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from arguments import parser
from networks import ResNet
from printing import machine, table

from bnfold import fold

RUNS = 5
IMAGE = (1, 3, 224, 224)
TIME_LIMIT = 2.5
MEMORY_LIMIT = 1.3
KIB, MIB = 1024, 1024**2


class Times(NamedTuple):
    """What each work took, in seconds."""

    forward: float
    copying: float
    folding: float

    @property
    def passes(self) -> float:
        """The fold without the copying, in forward passes."""
        return (self.folding - self.copying) / self.forward


def network() -> ResNet:
    """The network, in evaluation mode."""
    torch.manual_seed(0)
    return ResNet().eval()


def run(module: torch.nn.Module, image: torch.Tensor) -> None:
    """One forward pass."""
    with torch.inference_mode():
        module(image)


def copy_weights(module: torch.nn.Module) -> list[torch.Tensor]:
    """A copy of every weight that a batch norm stands behind: all but the last layer's."""
    return [part.weight.detach().clone().mul_(1.0) for part in module.modules() if isinstance(part, torch.nn.Conv2d)]


def seconds(work: Callable[[], object]) -> tuple[float, float]:
    """The processor time of one call, and the clock's."""
    processor, clock = time.process_time(), time.perf_counter()
    work()
    return time.process_time() - processor, time.perf_counter() - clock


def measure_time() -> list[tuple[Times, Times]]:
    """Forward pass, copying, and fold, in seconds of the processor and of the clock.

    ``RUNS`` times in turn, after one that is not counted.
    """
    module, image = network(), torch.randn(IMAGE)
    works: tuple[Callable[[], object], ...] = (
        lambda: run(module, image),
        lambda: copy_weights(module),
        lambda: fold(module, image),
    )
    rounds = [[seconds(work) for work in works] for _ in range(RUNS + 1)]
    return [
        (Times(*processor), Times(*clock)) for processor, clock in (zip(*timed, strict=True) for timed in rounds[1:])
    ]


def peak_bytes(case: str) -> int:
    """The largest resident set of a process that makes the network and does one thing with it."""
    command = [sys.executable, __file__, case]
    done = subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603 - this program
    return int(done.stdout)


def one_case(case: str) -> None:
    """Do it, and print the most memory that this process held, in bytes."""
    module, image = network(), torch.randn(IMAGE)
    run(module, image)
    if case == "fold":
        fold(module, image)
    status = Path("/proc/self/status").read_text(encoding="ascii")
    print(int(status.partition("VmHWM:")[2].split()[0]) * KIB)


def main() -> None:
    """Print both ratios and their limits."""
    known = parser(__doc__)
    known.add_argument("case", nargs="?", choices=("forward", "fold"), help="only print what this case holds, in bytes")
    case: str | None = known.parse_args().case
    if case is not None:
        one_case(case)
        return
    torch.set_num_threads(1)
    processor, clock = zip(*measure_time(), strict=True)
    forward, copying, folding = (statistics.median(times) for times in zip(*processor, strict=True))
    ratio, by_clock = (statistics.median(times.passes for times in each) for each in (processor, clock))
    elapsed = statistics.median(times.folding for times in clock)
    size = sum(tensor.numel() * tensor.element_size() for tensor in network().state_dict().values())
    extra = peak_bytes("fold") - peak_bytes("forward")
    rows = [
        ("one forward pass", f"{forward * 1000:,.0f} ms", "", ""),
        ("copying the weights before batch norms", f"{copying * 1000:,.0f} ms", "", ""),
        ("fold", f"{folding * 1000:,.0f} ms", f"{ratio:.2f} passes beyond the copying", f"{TIME_LIMIT} passes"),
        ("the same, by the clock", f"{elapsed * 1000:,.0f} ms", f"{by_clock:.2f} passes beyond the copying", ""),
        (
            "memory beyond the forward pass",
            f"{extra / MIB:,.0f} MiB",
            f"{extra / size:.2f} × the network",
            f"{MEMORY_LIMIT} ×",
        ),
    ]
    print(table(("", "measured", "ratio", "limit"), rows))
    print(f"\n{machine(('torch', 'numpy'))}; medians of {RUNS} rounds in turn")


if __name__ == "__main__":
    main()
