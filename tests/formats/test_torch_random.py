"""Whatever is folded in random modules, the outputs agree with the original's, at other sizes of batch too."""

from __future__ import annotations

import os
from random import Random

import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from random_modules import ModuleBuilder, RandomModule

from bnfold import fold
from bnfold.core.verdict import Fold

MODULES = int(os.environ.get("BNFOLD_RANDOM_MODULES", "150"))
"""How many modules are tried."""
TOLERANCE = 2e-3
"""Relative to the largest output: rounding stays below, and a wrong scale or shift of a channel far above."""
LARGEST = 1e8
"""Values beyond come from additions to itself; there is nothing to learn from their rounding."""
BATCHES = (1, 2, 3, 4)


def outputs(module: RandomModule, x: torch.Tensor) -> list[torch.Tensor] | None:
    """None where the module does not run at this size of batch."""
    try:
        with torch.inference_mode():
            return [value.clone() for value in module(x.clone())]
    except (RuntimeError, ValueError):
        return None


@settings(max_examples=MODULES, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.integers(0, 2**63 - 1), st.integers(2, 11), st.sampled_from([1, 2, 3]))
def test_a_folded_random_module_computes_the_same_at_any_batch(seed: int, operations: int, batch: int) -> None:
    builder = ModuleBuilder(Random(seed))  # noqa: S311 - reproducible, not secret
    module = builder.build(operations)
    recorded = torch.randn(batch, *builder.start)
    expected = outputs(module, recorded)
    assume(expected is not None and all(value.abs().max() < LARGEST for value in expected))
    folded = fold(module, recorded).model
    for size in BATCHES:
        x = torch.randn(size, *builder.start)
        before = outputs(module, x)
        if before is None:
            continue
        after = outputs(folded, x)
        assert after is not None
        for one, other in zip(before, after, strict=True):
            assert one.shape == other.shape
            assert (one - other).abs().max() <= TOLERANCE * one.abs().max() + 1e-5


def test_random_modules_hold_batch_norms_that_fold_by_every_rule_and_some_that_stay() -> None:
    plans = []
    for seed in range(100):
        builder = ModuleBuilder(Random(seed))  # noqa: S311 - reproducible
        module, x = builder.build(8), torch.randn(2, *builder.start)
        if outputs(module, x) is not None:
            plans.append(fold(module, x).plan)
    verdicts = [verdict for plan in plans for verdict in plan]
    rules = [verdict.rule for verdict in verdicts if isinstance(verdict, Fold)]
    assert len(rules) > 20
    assert len(verdicts) - len(rules) > 20
    assert set(rules) >= {"absorb-above", "absorb-below", "merge"}
    assert any(verdict.bn.stays for verdict in verdicts)
