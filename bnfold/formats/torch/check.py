"""bnfold's own check of a folded module: it is run beside the original before anybody gets it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from bnfold.core.graph import LAYERS
from bnfold.core.verdict import Change, Fold, Plan
from bnfold.errors import InputError, InternalError, UsageError
from bnfold.formats.torch.agreement import TOLERANCES, agree, agree_within, outputs_of, recorded
from bnfold.formats.torch.capture import Capture
from bnfold.formats.torch.operators import BATCH_NORMS
from bnfold.formats.torch.outsiders import works_out_of_sight
from bnfold.formats.torch.probes import another_batch, other_images
from bnfold.formats.torch.running import Inputs, output_tensors, run
from bnfold.formats.torch.scratch import scratch_copy, state_of
from bnfold.formats.torch.trusted import first_line
from bnfold.formats.torch.writes import WritesUndone


def check_fold(
    original: nn.Module,
    folded: nn.Module,
    recordings: Sequence[Inputs],
    captured: Capture,
    plan: Plan,
    *,
    always_at_other_sizes: bool,
) -> tuple[str, ...]:
    """Run a folded module beside the original, of which ``captured`` are the ``recordings``; what showed, as notes.

    InternalError, or InputError, where they differ. They run at other sizes too where code may know how large its
    tensors are, or a fold depends on that, or ``always_at_other_sizes``.
    """
    removed_calls, knows_sizes = captured.removed_calls(plan), captured.knows_sizes
    for inputs, outputs in zip(recordings, captured.outputs, strict=True):
        knows_sizes = _check_same_outputs(
            original, folded, inputs, outputs, removed_calls=removed_calls, knows_sizes=knows_sizes
        )
    if not (always_at_other_sizes or knows_sizes) and all(map(_holds_at_any_size, plan.changes)):
        return ()
    return _check_other_inputs(original, folded, recordings[0])


def _check_same_outputs(
    original: nn.Module,
    folded: nn.Module,
    inputs: Inputs,
    expected: Sequence[torch.Tensor],
    *,
    removed_calls: int,
    knows_sizes: bool,
) -> bool:
    """Run the folded module on the recorded inputs; InternalError where it computes something else.

    Returns whether its code may have learnt how large its tensors are, as that of the original may where it
    ``knows_sizes``.

    InputError where code of the user's is behind that: it asks a batch norm for what an Identity does not have, does
    something else once the batch norms are gone, or never computes the same twice. ``removed_calls``: so many of the
    calls of ``original`` should be gone.
    """
    scratch = scratch_copy(folded)
    state = state_of(scratch)
    seen = WritesUndone(sees_all=knows_sizes)
    try:
        actual = output_tensors(run(scratch, inputs, seen))
    except UsageError as error:
        raise InputError(
            f"the model's own code needs a batch norm that was folded: {first_line(error.__cause__ or error)}",
            where="it runs on the example inputs, and no longer does once folded",
            remedy="leave that batch norm out with --skip (skip=)",
        ) from error
    if not agree(expected, actual, original, inputs, folded=folded):
        _require_same_again(original, inputs, expected)
        if len(actual) != len(expected) or not _call_the_same(original, folded, inputs, removed_calls):
            raise InputError(
                "the model's own code does something else once its batch norms are folded",
                where="it looks at what its modules are or have (their type, a bias, the number of parameters)",
                remedy="leave the batch norms that it looks at out with --skip (skip=)",
            )
        if works_out_of_sight(original, inputs):
            raise InputError(
                "the model computes out of sight: on another thread, or in a library that is not torch's",
                where="what it reads there of layers and batch norms that fold is not known",
                remedy="leave the batch norms out whose layers are read there, with --skip (skip=)",
            )
        require_close(expected, actual)
    if state_of(scratch) != state:
        _require_same_next(original, scratch, inputs)
    return knows_sizes or seen.sizes.are_known


def _require_same_next(original: nn.Module, folded: nn.Module, inputs: Inputs) -> None:
    """InputError where a module that keeps something from run to run computes another next time than ``folded`` does.

    ``folded`` is a copy that has run once.
    """
    expected = outputs_of(original, inputs, runs=2)
    try:
        actual = output_tensors(run(folded, inputs))
    except UsageError:
        actual = []
    if not agree(expected, actual, original, inputs, runs=2):
        raise InputError(
            "the model takes another path when it runs again, on which it cannot be folded",
            where="its outputs on the example inputs are right the first time, and not the second",
            remedy="leave the batch norms on that path out with --skip (skip=)",
        )


def _require_same_again(original: nn.Module, inputs: Inputs, expected: Sequence[torch.Tensor]) -> None:
    """InputError where the original does not compute what it computed when it was recorded."""
    if not agree(expected, outputs_of(original, inputs), original, inputs):
        raise InputError(
            "the model computes something else each time it runs, so that nothing shows whether a fold is right",
            where="twice on the same inputs, with the same random numbers",
            remedy="let it compute the same from the same in eval(), as far as it depends on anything else",
        )


def _call_the_same(original: nn.Module, folded: nn.Module, inputs: Inputs, removed_calls: int) -> bool:
    """Whether the folded module calls what the original does, but for so many calls that are gone."""
    before, after = _calls(original, inputs), _calls(folded, inputs)
    rest = iter(before)
    is_part = all(any(_is_same_call(call, other) for other in rest) for call in after)
    return is_part and len(before) - len(after) == removed_calls


def _calls(module: nn.Module, inputs: Inputs) -> list[tuple[str, list[float]]]:
    """The operators that a module calls, with the numbers that it gives them."""
    return [
        (call.op, [leaf for leaf in tree_leaves(dict(call.arguments)) if isinstance(leaf, int | float)])
        for call in recorded(module, inputs).calls
        if not call.is_observation
    ]


def _is_same_call(one: tuple[str, list[float]], other: tuple[str, list[float]]) -> bool:
    """Whether both call the same, with the same numbers; some of these may have been computed."""
    close = partial(math.isclose, rel_tol=TOLERANCES[torch.float32])
    return one[0] == other[0] and len(one[1]) == len(other[1]) and all(map(close, one[1], other[1]))


def require_close(expected: Sequence[torch.Tensor], actual: Sequence[torch.Tensor]) -> None:
    """InternalError where a folded model computed something else than the original."""
    if not agree_within(expected, actual, TOLERANCES):
        raise InternalError(
            "the folded module computes something else than the original on the recorded inputs",
            where="nothing was written",
            remedy="please report this model's structure; --skip (skip=) leaves batch norms out",
        )


def _holds_at_any_size(change: Change) -> bool:
    """Whether a fold that is right at one size is so at all: a batch norm goes into the layers that it touches."""
    return (
        isinstance(change, Fold)
        and change.bn.op in BATCH_NORMS
        and not (change.crossed or change.leaving)
        and all(node.kind in LAYERS for node in change.into)
    )


def _check_other_inputs(original: nn.Module, folded: nn.Module, inputs: Inputs) -> tuple[str, ...]:
    """Run both with another number of samples; InputError where they differ. Returns notes.

    One run shows one path; ``if len(x) > 1`` around a batch norm is a common hack. Large images are tried at another
    size too, and with other values: there is less to compute, and what holds then holds for the batch.
    """
    notes: tuple[str, ...] = ()
    tried = (_agree(original, folded, other) for other in other_images(inputs))
    is_same = next((same for same in tried if same is not None), None)
    if is_same:
        return ()
    if is_same is False:
        notes = ("the model takes another path for images of other sizes; judged on the size of the example inputs",)
    other = another_batch(inputs)
    if other is not None and _agree(original, folded, other) is False:
        raise InputError(
            "the model takes another path for another number of samples, on which it cannot be folded",
            where="its outputs for the example inputs are right, those for another batch are not",
            remedy="leave the batch norms on that path out with --skip (skip=)",
        )
    return notes


def _agree(original: nn.Module, folded: nn.Module, inputs: Inputs) -> bool | None:
    """Whether both compute the same; None where the original does not run on such inputs."""
    try:
        expected = outputs_of(original, inputs)
    except UsageError:  # its first axis is no batch, or its sizes are fixed
        return None
    try:
        return agree(expected, outputs_of(folded, inputs), original, inputs, folded=folded)
    except UsageError:
        return False
