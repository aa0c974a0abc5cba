"""What a training script leaves in a file besides the network: where the state_dict is, its copies, the optimiser."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from bnfold.errors import InputError, UsageError
from bnfold.formats.torch.states import StoredState, is_copy_of, is_state, some
from bnfold.formats.torch.structure import plain_name
from bnfold.formats.torch.trusted import a_or_an

KEYS = (
    *("state_dict", "model", "model_state_dict", "model_state", "net", "network", "module", "weights", "params"),
    *("ema", "model_ema", "ema_model", "state_dict_ema", "ema_state_dict", "params_ema"),
)
"""Keys under which training scripts keep the network, in the order in which they are tried."""
OPTIMISER_WORDS = ("optim", "scheduler", "scaler")
"""What the keys of an optimiser's state are called; it is as large as the unfolded network, and fits no other."""


def states_in(content: object, key: str | None, path: Path) -> dict[str, Mapping[str, torch.Tensor]]:
    """The state_dict in a file, and its copies (moving averages) under other keys, by key; "" where there are no keys.

    UsageError where there is no state_dict under ``key``, InputError where there is none at all.
    """
    if key is None and is_state(content):
        return {"": content}
    found = _named_states(content)
    chosen = next((name for name in KEYS if name in found), None) if key is None else key
    if chosen is None:
        raise _no_state(content, path)
    if chosen not in found:
        there = f"; there are {some(found)}" if found else ""
        remedy = "the file is a state_dict itself: leave --key out" if is_state(content) else ""
        raise UsageError(f"no state_dict is under the key {key!r}{there}", where=str(path), remedy=remedy)
    main = StoredState(found.pop(chosen))
    copies = {name: state for name, state in found.items() if is_copy_of(StoredState(state), main)}
    return {chosen: main.stored, **copies}


def entries_of(content: object) -> Mapping[object, object]:
    """What stands in a file under keys; nothing where it is a state_dict itself."""
    return content if isinstance(content, Mapping) and not is_state(content) else {}


def without_optimiser(entries: Mapping[object, object]) -> tuple[dict[object, object], tuple[str, ...]]:
    """The entries without those of an optimiser, and the names of what was left out."""
    dropped = [name for name in entries if any(word in str(name).lower() for word in OPTIMISER_WORDS)]
    return {name: value for name, value in entries.items() if name not in dropped}, tuple(map(str, dropped))


def unfolded_in(entries: Mapping[object, object], states: Mapping[str, StoredState]) -> tuple[str, ...]:
    """The keys of what else has tensors of the same names, but is no whole copy: it is carried as it is."""
    own = {plain_name(name) for state in states.values() for name in state.stored}
    return tuple(
        name
        for name, value in _named_states(entries).items()
        if name not in states and not own.isdisjoint(map(plain_name, value))
    )


def _named_states(content: object) -> dict[str, Mapping[str, torch.Tensor]]:
    if not isinstance(content, Mapping):
        return {}
    return {name: value for name, value in content.items() if isinstance(name, str) and is_state(value)}


def _no_state(content: object, path: Path) -> InputError:
    """What is wrong with a file that holds no state_dict, or one in which not all is a tensor."""
    candidates = [content, *(content.get(key) for key in KEYS)] if isinstance(content, Mapping) else []
    for candidate in candidates:
        values = candidate if isinstance(candidate, Mapping) else {}
        strangers = [str(name) for name, value in values.items() if not isinstance(value, torch.Tensor)]
        if 0 < 2 * len(strangers) < len(values):
            return InputError(
                f"the state_dict holds more than tensors: {some(strangers)}",
                where=str(path),
                remedy="save model.state_dict(), and keep what else belongs to it under keys of its own beside it",
            )
    if found := _named_states(content):
        return InputError(
            f"the file holds state_dicts under {some(found)}, and none under a usual key",
            where=str(path),
            remedy="choose one with --key",
        )
    return InputError(
        f"the file holds {a_or_an(content)}, and no state_dict under {', '.join(KEYS[:3])} or another usual key",
        where=str(path),
        remedy="save model.state_dict() and give the architecture with --model pkg.module:factory",
    )
