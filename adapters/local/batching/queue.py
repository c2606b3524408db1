"""Who waits for a seat, and who is next: sessions in turn, each one's requests as they came."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Hashable, Iterator
from typing import Generic, TypeVar

__all__ = ["FairQueue"]

T = TypeVar("T", bound=Hashable)


class FairQueue(Generic[T]):
    """A queue that a session with many requests does not fill for the others.

    Next is the session with the fewest requests at work; among those, the one that was served longest ago.
    """

    def __init__(self) -> None:
        self._waiting: dict[str | None, deque[T]] = {}  # the session that was served longest ago first
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[T]:
        for items in list(self._waiting.values()):
            yield from items

    def push(self, item: T, session: str | None, *, first: bool = False) -> None:
        """Adds a request; `first`: it was at work already and had to make room."""
        items = self._waiting.setdefault(session, deque())
        (items.appendleft if first else items.append)(item)
        self._count += 1

    def peek(self, at_work: Counter[str | None]) -> T | None:
        """Who is next."""
        session = self._next(at_work)
        return self._waiting[session][0] if self._count else None

    def pop(self, at_work: Counter[str | None]) -> T:
        """Takes out who is next.

        Args:
            at_work: How many requests of each session are at work.

        Raises:
            IndexError: if nobody waits.
        """
        if not self._count:
            raise IndexError("nobody waits")
        session = self._next(at_work)
        items = self._waiting.pop(session)
        item = items.popleft()
        self._count -= 1
        if items:
            self._waiting[session] = items  # last in turn now
        return item

    def remove(self, item: T) -> bool:
        """Takes one out, wherever it is. Returns whether it waited."""
        for session, items in self._waiting.items():
            if item in items:
                items.remove(item)
                self._count -= 1
                if not items:
                    del self._waiting[session]
                return True
        return False

    def clear(self) -> list[T]:
        """Takes all out."""
        items = list(self)
        self._waiting.clear()
        self._count = 0
        return items

    def _next(self, at_work: Counter[str | None]) -> str | None:
        return min(self._waiting, key=lambda session: at_work[session], default=None)
