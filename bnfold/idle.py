"""Options that would change nothing where they are given: each is refused with its reason, and none ignored.

Permissions are no such options (``--trust-code``, ``--force``): they may be given and not needed.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from bnfold.errors import InputError, UsageError
from bnfold.files.folders import is_model_folder, weights_in
from bnfold.formats.kinds import format_of

Options = Mapping[str, object]
"""By the API's keywords, what was given, defaults included."""

PROGRAM = "pt2"
WITHOUT_ARCHITECTURE = frozenset({"torch-state-dict", "safetensors", "safetensors-shards"})
MEANINGS: Mapping[str, tuple[Callable[[str], bool], str]] = {
    "freeze": (lambda kind: kind == "onnx", "only ONNX models have initializers that may be overridden"),
    "merge_parallel": (lambda kind: kind == "onnx", "only in ONNX models are layers joined; a module's code stays"),
    "factory": (WITHOUT_ARCHITECTURE.__contains__, "it makes the module for tensors that come without one"),
    "key": (lambda kind: kind == "torch-state-dict", "only PyTorch checkpoints hold state_dicts under keys"),
    "inputs": (lambda kind: kind != "onnx", "an ONNX model is folded without being run"),
}
"""By keyword, for which format an option means something, and why not for the others."""
FLAGS = {"factory": "--model", "inputs": "--input"}
"""On the command line the other keywords have the same names."""


@dataclass(frozen=True)
class Idle:
    """An option that would change nothing, by its keyword, and why."""

    keyword: str
    why: str

    @property
    def error(self) -> UsageError:
        """What the user is told."""
        flag = FLAGS.get(self.keyword, f"--{self.keyword.replace('_', '-')}")
        return UsageError(f"{flag} ({self.keyword}=) would change nothing here: {self.why}", remedy="leave it out")


def refuse(found: Iterable[Idle]) -> None:
    """UsageError for the first idle option, if there is any."""
    for item in found:
        raise item.error


def idle_options(formats: Collection[str], options: Options, *, run: bool = False) -> list[Idle]:
    """The options that mean nothing to any model of these ``formats``, which are folded, and perhaps ``run``.

    Without a format nothing can be told, nor of an exported program that is not trusted.
    """
    if not formats or (PROGRAM in formats and not options.get("trust_code")):
        return []  # a program is refused for safety, whatever else is wrong
    found = [
        Idle(keyword, why)
        for keyword, (means, why) in MEANINGS.items()
        if not any(map(means, formats)) and not (run and keyword == "inputs")
    ]
    if options.get("pairs"):
        found.append(Idle("inputs", "pairs of layers and batch norms are folded without being run"))
    return [item for item in found if _is_given(options.get(item.keyword))]


def idle_in_memory(options: Options) -> list[Idle]:
    """The options that are for files alone."""
    why = "the model is in memory already"
    return [Idle(keyword, why) for keyword in ("factory", "key") if _is_given(options.get(keyword))]


def idle_with_data(data: object, options: Options) -> list[Idle]:
    """The options that mean nothing to ``--data``."""
    scaling = dict.fromkeys(("mean", "std", "scale"), "random inputs are no pixels, which could be scaled")
    labels = dict.fromkeys(("max_flips", "max_accuracy_drop"), "random inputs have no labels")
    reasons = scaling | labels if data == "random" else {"seed": "only random inputs are drawn from one"}
    return [Idle(keyword, why) for keyword, why in reasons.items() if _is_given(options.get(keyword))]


def formats_at(paths: Iterable[Path]) -> set[str]:
    """The formats of these files, and of the weights in a model's folder, as far as they can be read."""
    found = set()
    for path in paths:
        with suppress(InputError):  # whoever loads it tells
            found.add(format_of(weights_in(path) if is_model_folder(path) else path, trust_code=False))
    return found


def _is_given(value: object) -> bool:
    """Whether this is no default."""
    return not (value is None or (isinstance(value, bool | int | tuple) and not value))
