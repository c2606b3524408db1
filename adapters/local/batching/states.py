"""What was computed for a piece of a sequence, as bytes: copied out of the cells, and back."""

from __future__ import annotations

from typing import Protocol, TypeAlias

__all__ = ["Copier", "State", "StateStore"]

State: TypeAlias = bytes | memoryview


class StateStore(Protocol):
    """The cells themselves (see `cells.Store`), and what was computed for them as bytes."""

    def share(self, source: int, target: int, start: int, end: int) -> None:
        """See `cells.Store`."""
        ...

    def cut(self, sequence: int, start: int, end: int = -1) -> None:
        """See `cells.Store`."""
        ...

    def state(self, sequence: int, start: int, end: int) -> State | None:
        """What a sequence holds, from position `start` up to `end`; None if that is not all of it."""
        ...

    def restore(self, sequence: int, state: State, start: int, end: int) -> bool:
        """Puts a state into the first empty cells, as an empty sequence's. Whether it could."""
        ...


class Copier:
    """Copies pieces of sequences out and back. For the thread that owns the model.

    Args:
        store: The model's memory.
        scratch: A sequence of the store that is empty between two calls: a state is always a whole
            sequence's.
    """

    def __init__(self, store: StateStore, scratch: int) -> None:
        self._store = store
        self._scratch = scratch

    def out(self, sequence: int, start: int, end: int) -> State | None:
        """A copy of a sequence's positions from `start` up to `end`; None if some are missing."""
        self._store.share(sequence, self._scratch, start, end)
        state = self._store.state(self._scratch, start, end)
        self._store.cut(self._scratch, 0)
        return state

    def back(self, state: State, start: int, end: int, sequence: int) -> bool:
        """Puts a copy into the first empty cells, as the end of a sequence. Whether that succeeded."""
        if not self._store.restore(self._scratch, state, start, end):
            return False
        self._store.share(self._scratch, sequence, start, end)
        self._store.cut(self._scratch, 0)
        return True
