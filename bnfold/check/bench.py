"""Which model is faster? All models run in turn, round after round, so that what slows the machine slows them all."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

from bnfold.check import Progress
from bnfold.check.inputs import Source, random_inputs
from bnfold.check.statistics import paired_ratio, timing
from bnfold.core.collecting import uncollected
from bnfold.records import BenchCase, InputSpec, Timing
from bnfold.runtime.session import Feeds, Session

Call = Callable[[], object]

Clock = Callable[[], float]
"""Seconds since some moment."""

MAX_ROUNDS = 10_000
_WARM_UP_ROUNDS = 3
_PERCENT = 100


@dataclass(frozen=True)
class Candidate:
    """A model to time, under the name that the report gives it."""

    name: str
    session: Session


@dataclass(frozen=True)
class Effort:
    """How long a case is timed: until both are reached, but never more than ``MAX_ROUNDS`` rounds."""

    min_seconds: float = 1.0
    min_rounds: int = 20

    def share(self, seconds: float, rounds: int) -> float:
        """How much of it is done, from 0 to 1."""
        if rounds >= MAX_ROUNDS:
            return 1.0
        return min(1.0, rounds / self.min_rounds, seconds / self.min_seconds if self.min_seconds > 0 else 1.0)


def bench(
    candidates: Sequence[Candidate],
    batches: Sequence[int],
    *,
    optimises: bool,
    effort: Effort = Effort(),
    seed: int = 0,
    sizes: Sequence[InputSpec] = (),
    clock: Clock = time.perf_counter,
    progress: Progress | None = None,
) -> tuple[BenchCase, ...]:
    """Time ``candidates``, the original first, on random inputs of every size in ``batches``.

    A round runs each model once. Of two, every other round begins with the other (A B, B A, A B, …), and three or more
    take turns in beginning (A B C, B C A, C A B, …), so that drift and the place in the round cancel. ``optimises``
    says that the runtime rewrites models by itself. ``seed`` is for the inputs and the bootstrap.

    Raises:
        UsageError: a size of the inputs is missing.
        InputError: a model fails on the inputs.
    """
    sources: dict[int, Source] = {}
    for batch in batches:
        source = random_inputs(candidates[0].session.inputs, samples=batch, batch=batch, seed=seed, sizes=sizes)
        sources.setdefault(source.record.batch, source)
    cases = []
    for index, (batch, source) in enumerate(sources.items()):
        calls = _prepared(candidates, next(source.batches()).feeds)
        report = partial(_report, progress, index, len(sources))
        timings = _timings(candidates, _rounds(calls, effort, clock, report), seed)
        note = _note(timings, optimises=optimises, fixed_batch=None if batch in batches else batch)
        cases.append(BenchCase(candidates[0].session.label, batch, timings, note))
    return tuple(cases)


def none_slower(cases: Sequence[BenchCase], percent: float) -> bool:
    """The verdict of ``--fail-if-slower``: no model is, by the whole of its interval, more than ``percent`` slower."""
    limit = 1 + percent / 100
    return all(timing.ratio_low is None or timing.ratio_low <= limit for case in cases for timing in case.timings)


def _prepared(candidates: Sequence[Candidate], feeds: Feeds) -> list[Call]:
    """What is timed. Each model runs once first, so that one that cannot fails with an error for people."""
    for candidate in candidates:
        candidate.session.run(feeds)
    return [candidate.session.prepare(feeds) for candidate in candidates]


def _rounds(calls: Sequence[Call], effort: Effort, clock: Clock, report: Callable[[float], None]) -> list[list[float]]:
    """The times of each call in ms, round by round: ``[call][round]``."""
    times_ms: list[list[float]] = [[] for _ in calls]
    order = list(range(len(calls)))
    spent_ms = 0.0
    with _no_garbage_collection():
        for call in [call for _ in range(_WARM_UP_ROUNDS) for call in calls]:
            call()
        while effort.share(spent_ms / 1000, len(times_ms[0])) < 1:
            for index in order:
                start = clock()
                calls[index]()
                elapsed_ms = (clock() - start) * 1000
                times_ms[index].append(elapsed_ms)
                spent_ms += elapsed_ms
            order = _turned(order)
            report(effort.share(spent_ms / 1000, len(times_ms[0])))
    return times_ms


def _turned(order: list[int]) -> list[int]:
    """The order of the next round. Reversing three would run the outer two twice in a row, on warm caches."""
    return order[::-1] if len(order) <= 2 else [*order[1:], *order[:1]]  # noqa: PLR2004 - a pair


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """A collection in the middle of a timing would be charged to whichever model happens to run."""
    gc.collect()
    with uncollected():
        yield


def _timings(candidates: Sequence[Candidate], times_ms: Sequence[Sequence[float]], seed: int) -> tuple[Timing, ...]:
    original = timing(candidates[0].name, times_ms[0], None)
    others = (
        timing(candidate.name, times, paired_ratio(times, times_ms[0], seed))
        for candidate, times in zip(candidates[1:], times_ms[1:], strict=True)
    )
    return (original, *others)


def _note(timings: Sequence[Timing], *, optimises: bool, fixed_batch: int | None) -> str:
    notes = [] if fixed_batch is None else [f"the model's batch is fixed at {fixed_batch}"]
    if optimises and all(timing.verdict == "no difference" for timing in timings[1:]):
        notes.append("at this level the runtime folds by itself; what folding gains shows with its optimisations off")
    return "; ".join(notes)


def _report(progress: Progress | None, index: int, cases: int, share: float) -> None:
    """Progress in percent of a case, over all cases."""
    if progress is not None:
        progress(int(_PERCENT * (index + share)), _PERCENT * cases)
