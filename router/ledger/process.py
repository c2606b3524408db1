"""What of the ledger belongs to one process: its running writers, and those that a fork left behind.

A fork copies the memory of all threads, but only the one that forks goes on in the child. If another one is
inside SQLite at that moment, SQLite's own locks stay taken in the child for ever, and even a new connection
hangs there. So whoever uses SQLite here holds a lock meanwhile, and a fork waits for them.
"""

from __future__ import annotations

import atexit
import os
import sys
import threading
import time
from typing import Protocol

__all__ = ["PROCESS"]

#: Seconds that the end of the interpreter waits for what is queued.
AT_EXIT = 2.0
#: Seconds that a fork waits for one who uses SQLite. After that it takes the risk.
FORK_WAITS = 2.0


class _Ends(Protocol):
    using: threading.RLock

    def stop(self) -> None: ...

    def join(self, timeout: float) -> bool: ...


class _Process:
    """The running writers of this process.

    Attributes:
        generation: How many forks led here; what was made in another generation is of no use in this one.
        lock: Guards what is rebuilt after a fork; itself new after each.
        using: Held by whoever uses SQLite outside a writer's thread; a writer has a lock of its own.
    """

    def __init__(self) -> None:
        self.generation = 0
        self.lock = threading.Lock()
        self.using = threading.RLock()
        self._forking = threading.RLock()
        self._taken: list[threading.RLock] = []
        self._running: set[_Ends] = set()
        self._abandoned: list[_Ends] = []
        self._hooked_in = 0

    def enlist(self, writer: _Ends) -> None:
        """Has a writer ended with the interpreter."""
        self._running.add(writer)
        if self._hooked_in == self.generation:
            return
        self._hooked_in = self.generation
        # A child that multiprocessing forked leaves by os._exit: past atexit, but not past its finalizers.
        util = sys.modules.get("multiprocessing.util")
        if util is not None:
            util.Finalize(None, self.end, exitpriority=0)

    def discharge(self, writer: _Ends) -> None:
        """Forgets a writer that has ended."""
        self._running.discard(writer)

    def end(self) -> None:
        """Has everything written, as far as that takes no longer than two seconds."""
        writers = list(self._running)
        deadline = time.monotonic() + AT_EXIT
        for writer in writers:
            writer.stop()
        for writer in writers:
            writer.join(max(0.0, deadline - time.monotonic()))

    def before_fork(self) -> None:
        """Waits until nobody is inside SQLite, and lets nobody in."""
        self._forking.acquire()
        locks = [self.using, *(writer.using for writer in list(self._running))]
        self._taken = [lock for lock in locks if lock.acquire(timeout=FORK_WAITS)]

    def after_fork(self) -> None:
        """In the parent: everything goes on."""
        for lock in self._taken:
            lock.release()
        self._forking.release()

    def forked(self) -> None:
        """In a child: the parent's threads are not here, and its connections must be left alone.

        They are kept from being collected, too: closing one would touch the parent's file.
        """
        self.generation += 1
        self.lock = threading.Lock()
        self.using, self._forking = threading.RLock(), threading.RLock()
        self._taken = []
        self._abandoned += self._running
        self._running = set()


PROCESS = _Process()
# On import, so that it comes last: what ends before it (`router.background`) still has costs to write down.
atexit.register(PROCESS.end)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=PROCESS.before_fork, after_in_parent=PROCESS.after_fork, after_in_child=PROCESS.forked
    )
