"""The memory of a run: whether input and output of a batch norm could share theirs and nobody would notice."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable

from bnfold.formats.torch.aten import Recorder


class SharedMemory:
    """A batch norm that becomes an Identity returns its input itself; a write to the one then shows in the other.

    Storages are compared, not the parts of them that views show. ``batch_norms``: the values before and behind each.
    """

    def __init__(self, recorder: Recorder, batch_norms: Iterable[tuple[str, str]], outputs: Collection[str]) -> None:
        self._storages = recorder.storages
        self._outputs_of = [call.outputs for call in recorder.calls]
        self._uses = [(self._places(call.inputs), self._places(call.written)) for call in recorder.calls]
        """What each call reads, and what it writes in place."""
        made = {value for call in recorder.calls for value in call.outputs}
        self._made_at: dict[int, int] = {}
        """By storage, the position of the call that made it; what was there before the run has none."""
        for position, call in enumerate(recorder.calls):
            for place in self._places(call.outputs) - self._places(call.inputs):
                self._made_at.setdefault(place, position)
        lasting = [value for value in recorder.storages if value in outputs or value not in made]
        self._uses.append((self._places(lasting), set()))  # what was there before the run, or is there after it
        self._touching: defaultdict[int, list[int]] = defaultdict(list)
        """By storage, the positions of the calls that read it or write to it, in order."""
        for position, (read, changed) in enumerate(self._uses):
            for place in read | changed:
                self._touching[place].append(position)
        self._merged: dict[int, set[int]] = {}
        """By storage: all that would be one with it if every batch norm became an Identity."""
        for pair in batch_norms:
            ends = self._places(pair)
            one = ends.union(*(self._merged.get(end, set()) for end in ends))
            self._merged |= dict.fromkeys(one, one)

    def is_entangled(self, position: int) -> bool:
        """Whether, after the batch norm at ``position``, one of its ends is read once the other has been written.

        A write counts for what was there before it: what a batch norm makes of its input later has the write in it.
        """
        one = self._merged[self._storages[self._outputs_of[position][0]]]
        written: dict[int, int] = {}
        later = {use for place in one for use in self._touching[place] if use > position}
        for use in sorted(later):
            read, changed = self._uses[use]
            for place in read & one:
                others = (last for other, last in written.items() if other != place)
                if any(last > self._made_at.get(place, -1) for last in others):
                    return True
            written |= dict.fromkeys(changed & one, use)
        return False

    def _places(self, values: Iterable[str]) -> set[int]:
        """Where these values lie."""
        return {self._storages[value] for value in values}
