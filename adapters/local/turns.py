"""Lets the local models of a process compute one at a time.

Two models decoding at once on the same cores spin against each other and both crawl. A turn lasts one step,
so models share the cores fairly instead of waiting for each other's answers.
"""

from __future__ import annotations

import threading
from collections import deque
from contextlib import AbstractContextManager
from types import TracebackType

__all__ = ["TURN", "FairLock"]


class FairLock:
    """A lock that is handed over in the order in which it was asked for; `threading.Lock` promises none.

    Attributes:
        outer: What whoever holds the lock enters, too: the turn among processes, where there are several.
    """

    def __init__(self) -> None:
        self.outer: AbstractContextManager[object] | None = None
        self._entered: AbstractContextManager[object] | None = None
        self._guard = threading.Lock()
        self._held = False
        self._queue: deque[threading.Lock] = deque()

    def __enter__(self) -> None:
        self._acquire()
        self._entered = self.outer
        if self._entered is not None:
            self._entered.__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._entered is not None:
            self._entered.__exit__(kind, error, trace)
        self._release()

    def _acquire(self) -> None:
        with self._guard:
            if not self._held:
                self._held = True
                return
            ticket = threading.Lock()
            ticket.acquire()
            self._queue.append(ticket)
        # Released by whoever held the lock before; the lock stays held in between, so nobody can overtake.
        ticket.acquire()

    def _release(self) -> None:
        with self._guard:
            if self._queue:
                self._queue.popleft().release()
            else:
                self._held = False


#: Held for every computing step of every local model in this process.
TURN = FairLock()
