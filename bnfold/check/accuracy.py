"""What models make of labelled samples: how many each gets right, and which predictions differ."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from bnfold.check import Progress
from bnfold.check.inputs import Source
from bnfold.records import AccuracyRecord
from bnfold.runtime.session import Array, Session, is_float


@dataclass
class AccuracyTally:
    """Top-1 predictions of two models, batch after batch."""

    samples: int = 0
    original_correct: int = 0
    folded_correct: int = 0
    classless: int = 0
    """Labels that are none of the scores' classes."""
    flipped: list[int] = field(default_factory=list)

    def add(self, original: Mapping[str, Array], folded: Mapping[str, Array], labels: Array) -> bool:
        """One batch. False, and nothing is counted, where no output of both models holds scores for ``labels``."""
        name = scores_output(original, labels)
        if name is None or name not in folded or folded[name].shape != original[name].shape:
            return False
        a, b = original[name].argmax(axis=-1), folded[name].argmax(axis=-1)
        self.flipped += (self.samples + np.flatnonzero(a != b)).tolist()
        self.samples += len(labels)
        self.original_correct += int((a == labels).sum())
        self.folded_correct += int((b == labels).sum())
        self.classless += int(((labels < 0) | (labels >= original[name].shape[-1])).sum())
        return True

    def result(self, max_flips: int, max_accuracy_drop: float | None) -> AccuracyRecord | None:
        """The verdict; None if nothing was counted. ``max_accuracy_drop`` is a fraction, like the accuracies."""
        if not self.samples:
            return None
        original, folded = self.original_correct / self.samples, self.folded_correct / self.samples
        lost = (self.original_correct - self.folded_correct) / self.samples
        return AccuracyRecord(
            samples=self.samples,
            original_correct=self.original_correct,
            folded_correct=self.folded_correct,
            original_accuracy=original,
            folded_accuracy=folded,
            flips=len(self.flipped),
            flipped=tuple(self.flipped),
            max_flips=max_flips,
            max_accuracy_drop=max_accuracy_drop,
            passed=len(self.flipped) <= max_flips and (max_accuracy_drop is None or lost <= max_accuracy_drop),
        )


def accuracy(session: Session, source: Source, progress: Progress | None = None) -> float | None:
    """Top-1 accuracy of one model on labelled samples; None where no output holds scores for them."""
    correct = done = 0
    for batch in source.batches():
        if batch.labels is None:
            return None
        outputs = batch.trimmed(session.run(batch.feeds))
        name = scores_output(outputs, batch.labels)
        if name is None:
            return None
        correct += int((outputs[name].argmax(axis=-1) == batch.labels).sum())
        done += batch.samples
        if progress is not None:
            progress(done, source.record.samples)
    return correct / done if done else None


def scores_output(outputs: Mapping[str, Array], labels: Array) -> str | None:
    """The first floating-point output with two or more classes on its last axis, and one row of them a label."""
    for name, array in outputs.items():
        if is_float(array.dtype) and array.shape[:-1] == labels.shape and array.ndim and array.shape[-1] > 1:
            return name
    return None
