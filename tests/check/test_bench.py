from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import repeat
from typing import Any

import numpy as np
import pytest
from checked_models import FunctionSession, conv_bn, folded_model, original_model, ort_pair

from bnfold.check.bench import MAX_ROUNDS, Candidate, Effort, bench, none_slower
from bnfold.check.statistics import Ratio, paired_ratio
from bnfold.errors import InputError, UsageError
from bnfold.records import BenchCase, Speed, Timing
from bnfold.runtime.session import Feeds, TensorSpec


@dataclass
class FakeClock:
    """A clock that stands still, except where a model runs; it also notes which did."""

    seconds: float = 0.0
    ran: list[str] = field(default_factory=list)

    def __call__(self) -> float:
        return self.seconds

    def candidate(self, name: str, times_ms: Iterator[float], **attributes: Any) -> Candidate:
        return Candidate(name, TimedSession(self, name, times_ms, **attributes))


class TimedSession(FunctionSession):
    def __init__(self, clock: FakeClock, name: str, times_ms: Iterator[float], **attributes: Any) -> None:
        super().__init__(lambda _: {}, **attributes)
        self.clock, self.name, self.times_ms = clock, name, times_ms

    def prepare(self, feeds: Feeds) -> Callable[[], object]:  # noqa: ARG002 - the protocol's signature
        def call() -> None:
            self.clock.seconds += next(self.times_ms) / 1000
            self.clock.ran.append(self.name)

        return call


def noisy(mean_ms: float, seed: int) -> Iterator[float]:
    draw = np.random.default_rng(seed)
    while True:
        yield mean_ms * float(draw.lognormal(0, 0.1))


def timed(
    *times_ms: Iterator[float], batches: Sequence[int] = (1,), optimises: bool = False, **options: Any
) -> tuple[BenchCase, ...]:
    clock = FakeClock()
    candidates = [clock.candidate(name, times) for name, times in zip("ABCD", times_ms, strict=False)]
    return bench(candidates, batches, optimises=optimises, clock=clock, **options)


def test_a_missing_size_is_refused_before_anything_runs() -> None:
    clock = FakeClock()
    candidate = clock.candidate("A", repeat(1.0), inputs=(TensorSpec("x", "float32", ("n", "width")),))
    with pytest.raises(UsageError, match="--input x=1xwidth"):
        bench([candidate], [1], optimises=False, clock=clock)
    assert clock.ran == []


def test_a_model_that_fails_is_an_error_before_the_clock_starts() -> None:
    def fail(_: Feeds) -> Any:
        raise InputError("the runtime rejects it")

    clock = FakeClock()
    with pytest.raises(InputError, match="rejects"):
        bench([Candidate("A", FunctionSession(fail))], [1], optimises=False, clock=clock)


def test_noisy_equal_models_are_no_different() -> None:
    (case,) = timed(noisy(10, seed=1), noisy(10, seed=2), effort=Effort(min_rounds=200))
    assert case.timings[1].verdict == "no difference"


@pytest.mark.parametrize(("folded_ms", "verdict"), [(8.0, "faster"), (12.0, "slower"), (10.05, "no difference")])
def test_the_verdict_sees_through_noise(folded_ms: float, verdict: Speed) -> None:
    (case,) = timed(noisy(10, seed=1), noisy(folded_ms, seed=2), effort=Effort(min_rounds=200))
    ratio = case.timings[1]
    assert ratio.verdict == verdict
    assert ratio.ratio is not None
    assert ratio.ratio_low is not None
    assert ratio.ratio_high is not None
    assert ratio.ratio_low < ratio.ratio < ratio.ratio_high
    assert ratio.ratio == pytest.approx(folded_ms / 10, rel=0.05)


def test_a_machine_that_slows_down_slows_both_and_changes_nothing() -> None:
    def drifting(start_ms: float) -> Iterator[float]:
        for step in range(10**6):
            yield start_ms * (1 + step / 50)

    (case,) = timed(drifting(10), drifting(8))
    assert case.timings[1].ratio == pytest.approx(0.8)
    assert case.timings[1].verdict == "faster"


@pytest.mark.parametrize(
    ("ratio", "verdict"),
    [
        (Ratio(0.80, 0.70, 0.90), "faster"),
        (Ratio(0.80, 0.70, 1.01), "no difference"),
        (Ratio(0.995, 0.992, 0.998), "no difference"),
        (Ratio(1.005, 1.002, 1.008), "no difference"),
        (Ratio(1.20, 0.99, 1.40), "no difference"),
        (Ratio(1.20, 1.10, 1.30), "slower"),
    ],
)
def test_a_difference_is_sure_and_more_than_one_percent(ratio: Ratio, verdict: Speed) -> None:
    assert ratio.verdict == verdict


def test_the_ratio_is_of_pairs_and_its_interval_reproducible() -> None:
    original, folded = [10.0, 20.0, 40.0], [9.0, 18.0, 36.0]
    assert paired_ratio(folded, original, seed=0) == Ratio(0.9, 0.9, 0.9)
    noise = np.random.default_rng(0).lognormal(0, 0.1, 50).tolist()
    assert paired_ratio(noise, [1.0] * 50, seed=3) == paired_ratio(noise, [1.0] * 50, seed=3)


@pytest.mark.parametrize(
    ("models", "rounds"),
    [("AB", ["AB", "BA", "AB", "BA"]), ("ABC", ["ABC", "BCA", "CAB", "ABC"])],
)
def test_models_run_in_turn_and_take_turns_in_beginning(models: str, rounds: list[str]) -> None:
    clock = FakeClock()
    candidates = [clock.candidate(name, repeat(1.0)) for name in models]
    (case,) = bench(candidates, [1], optimises=False, clock=clock, effort=Effort(min_seconds=0, min_rounds=4))
    warm_up = 3 * len(models)
    assert "".join(clock.ran[:warm_up]) == models * 3
    assert "".join(clock.ran[warm_up:]) == "".join(rounds)
    assert [len(timing.samples_ms) for timing in case.timings] == [4] * len(models)


@pytest.mark.parametrize(
    ("times_ms", "effort", "rounds"),
    [
        pytest.param(1.0, Effort(min_seconds=1.0, min_rounds=5), 500, id="until the seconds are reached"),
        pytest.param(900.0, Effort(min_seconds=1.0, min_rounds=5), 5, id="until the rounds are reached"),
        pytest.param(0.001, Effort(min_seconds=60.0), MAX_ROUNDS, id="never more than the bound"),
    ],
)
def test_a_case_is_timed_for_as_long_as_asked(times_ms: float, effort: Effort, rounds: int) -> None:
    (case,) = timed(repeat(times_ms), repeat(times_ms), effort=effort)
    assert len(case.timings[0].samples_ms) == pytest.approx(rounds, abs=1)


def test_the_summary_is_of_the_raw_samples_without_the_warm_up() -> None:
    times = iter([1000.0, 1000.0, 1000.0, *map(float, range(1, 12))])
    (case,) = timed(times, effort=Effort(min_seconds=0, min_rounds=11))
    (timing,) = case.timings
    assert timing.samples_ms == pytest.approx(tuple(range(1, 12)))
    assert timing.median_ms == pytest.approx(6)
    assert timing.p90_ms == pytest.approx(10)
    assert timing.mad_ms == pytest.approx(3)
    assert (timing.model, timing.ratio, timing.verdict) == ("A", None, None)


def test_every_batch_size_is_a_case() -> None:
    cases = timed(repeat(1.0), repeat(1.0), batches=[1, 32, 1])
    assert [case.batch for case in cases] == [1, 32]
    assert {case.runtime for case in cases} == {"NumPy"}


def test_a_fixed_batch_is_timed_once_and_said() -> None:
    clock = FakeClock()
    inputs = (TensorSpec("x", "float32", (8, 3)),)
    candidate = clock.candidate("A", repeat(1.0), inputs=inputs)
    (case,) = bench([candidate], [1, 32], optimises=False, clock=clock)
    assert case.batch == 8
    assert case.note == "the model's batch is fixed at 8"


def test_a_runtime_that_folds_by_itself_is_said_where_folding_gains_nothing() -> None:
    (case,) = timed(noisy(10, seed=1), noisy(10, seed=2), optimises=True)
    assert "folds by itself" in case.note


@pytest.mark.parametrize(("folded_ms", "optimises"), [(10.0, False), (5.0, True)])
def test_nothing_is_said_of_the_runtime_otherwise(folded_ms: float, optimises: bool) -> None:  # noqa: FBT001 - a table's column
    (case,) = timed(noisy(10, seed=1), noisy(folded_ms, seed=2), optimises=optimises)
    assert case.note == ""


@pytest.mark.parametrize("enabled", [True, False])
def test_garbage_collection_rests_while_timing_and_is_restored(enabled: bool) -> None:  # noqa: FBT001 - a table's column
    seen = []

    def watched() -> Iterator[float]:
        while True:
            seen.append(gc.isenabled())
            yield 1.0

    before = gc.isenabled()
    try:
        (gc.enable if enabled else gc.disable)()
        timed(watched())
        assert gc.isenabled() is enabled
    finally:
        (gc.enable if before else gc.disable)()
    assert set(seen) == {False}


def test_progress_is_in_percent_of_all_cases() -> None:
    seen: list[tuple[int, int]] = []
    timed(
        repeat(1.0),
        batches=[1, 2],
        effort=Effort(min_seconds=0, min_rounds=4),
        progress=lambda *step: seen.append(step),
    )
    assert seen == [(done, 200) for done in (25, 50, 75, 100, 125, 150, 175, 200)]


@pytest.mark.parametrize(
    ("low", "percent", "passes"),
    [(None, 5.0, True), (0.9, 0.0, True), (1.04, 5.0, True), (1.06, 5.0, False), (1.01, 0.0, False)],
)
def test_only_what_is_surely_slower_by_more_than_allowed_fails(low: float | None, percent: float, passes: bool) -> None:  # noqa: FBT001 - a table's column
    timing = Timing("B", 1.0, 1.0, 0.0, (1.0,), ratio=1.07, ratio_low=low, ratio_high=1.1)
    assert none_slower([BenchCase("test", 1, (timing,))], percent) is passes


def test_a_real_pair_is_timed() -> None:
    network = conv_bn()
    pair = ort_pair(original_model(network), folded_model(network, *network.folded_weight()))
    candidates = [Candidate("original", pair.original), Candidate("folded", pair.folded)]
    (case,) = bench(candidates, [2], optimises=False, effort=Effort(min_seconds=0, min_rounds=3))
    assert case.runtime == "onnxruntime, optimisations off"
    assert [len(timing.samples_ms) for timing in case.timings] == [3, 3]
    assert min(case.timings[1].samples_ms) > 0
