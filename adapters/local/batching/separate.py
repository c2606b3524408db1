"""Sequences in the memory of a recurrent model, which keeps a state in place of what was said."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate

from adapters.local.batching.cells import Store

__all__ = ["Separate"]


class Separate:
    """A `Memory` for recurrent models: a sequence has one state, which can be neither shared nor cut."""

    def __init__(self, store: Store, *, cells: int, sequences: int) -> None:
        self._store = store
        self._total = cells
        self._lengths: dict[int, int] = {}
        self._free = list(range(sequences))[::-1]

    @property
    def free(self) -> int:
        """See `Memory`."""
        return self._total - sum(self._lengths.values())

    def room_for(self, _tokens: list[int]) -> tuple[int, int]:
        """See `Memory`; nothing is ever held."""
        return self.free, 0

    def held(self, _tokens: list[int]) -> int:
        """See `Memory`; nothing is ever held."""
        return 0

    def open(
        self,
        _tokens: list[int],
        answer: int = 0,  # noqa: ARG002 - nothing is in the way
        *,
        private: bool = False,  # noqa: ARG002 - nothing is kept
    ) -> tuple[int, int]:
        """See `Memory`."""
        sequence = self._free.pop()
        self._lengths[sequence] = 0
        return sequence, 0

    def place(self, wanted: Sequence[tuple[int, int]]) -> list[list[int]]:
        """See `Memory`; the order of the tokens does not matter here."""
        ends = list(accumulate(count for _, count in wanted))
        for sequence, count in wanted:
            self._lengths[sequence] += count
        return [list(range(end - count, end)) for (_, count), end in zip(wanted, ends, strict=True)]

    def undo(self, placed: Sequence[tuple[int, Sequence[int]]]) -> None:
        """See `Memory`."""
        for sequence, cells in placed:
            self._lengths[sequence] -= len(cells)

    def computed(self, sequence: int, tokens: list[int]) -> None:
        """See `Memory`; nobody can share them."""

    def close(self, sequence: int, *, keep: bool = True) -> None:  # noqa: ARG002 - nothing can be kept
        """See `Memory`."""
        del self._lengths[sequence]
        self._store.cut(sequence, 0)
        self._free.append(sequence)

    def reclaim(self, cells: int) -> bool:
        """See `Memory`; there is nothing to give up."""
        return self.free >= cells

    def save(self, stop: Callable[[], bool]) -> None:
        """See `Memory`; a state that cannot be cut is of use for no other text."""
