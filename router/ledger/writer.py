"""The thread that owns the ledger's connection, and the two queues that lead to it.

Money is asked for by callers who wait: it wakes the thread at once, and whatever has queued up by then
shares one transaction. Rows can wait: the first one starts a short delay, and all that come in it are
written together, so that a busy router wakes the thread ten times a second for them and not a thousand.
"""

from __future__ import annotations

import contextlib
import logging
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from router.ledger.books import Snapshot
from router.ledger.entries import Row
from router.ledger.operations import Answers, Change, Operation, Settle, Take, Visit, ignore, turn_away
from router.ledger.owners import BEAT
from router.ledger.process import PROCESS
from router.ledger.teller import Answered, Teller

if TYPE_CHECKING:
    from router.allowances import Budget
    from router.ledger.keeper import Keeper

__all__ = ["Writer"]

_log = logging.getLogger("router.ledger")

#: Rows that may wait; one more is dropped and counted.
MOST_WAITING = 50_000
#: Rows in one transaction; money waits no longer than one takes.
BATCH = 256
#: Seconds that rows are collected for.
DELAY = 0.1
#: Seconds between two looks at what other processes booked.
LOOK = 1.0
#: The same while somebody waits for money that they may settle; each time between half of it and half more,
#: so that processes do not look in step.
GLANCE = 0.05


class _Bell:
    """Wakes one waiting thread; cheaper than `threading.Event`, and rung from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()

    def ring(self) -> None:
        with contextlib.suppress(RuntimeError):  # it rings already
            self._lock.release()

    def wait(self, seconds: float | None) -> None:
        self._lock.acquire(timeout=-1 if seconds is None else max(0.0, seconds))


class Writer:
    """One connection's thread. Started by the first thing it is given.

    It belongs to the process it was made in; a forked child makes another one.

    Attributes:
        using: Held while the thread uses SQLite; see `router.ledger.process`.
    """

    def __init__(
        self, clerk: Keeper, *, budgets: Sequence[Budget], watch: bool, on_drop: Callable[[int], None]
    ) -> None:
        """Starts nothing yet.

        Args:
            clerk: Does the transactions, on the thread.
            budgets: Those that it keeps, in its order.
            watch: Whether other processes may book on the same budgets: look once a second.
            on_drop: Told how many rows were dropped, from any thread.
        """
        self.using = threading.RLock()
        self._clerk = clerk
        self._teller = Teller(clerk, budgets, shared=watch)
        self._watch = watch
        self._on_drop = on_drop
        self._operations: deque[Operation] = deque()
        self._rows: deque[Row] = deque()
        self._rows_waiting = False
        self._rows_due: float | None = None
        self._look_due = self._beat_due = 0.0
        self._bell = _Bell()
        self._thread: threading.Thread | None = None
        self._stopping = False
        self._ended = False
        self._starting = threading.Lock()
        PROCESS.enlist(self)

    @property
    def snapshot(self) -> Snapshot:
        """What the budgets had left after the last transaction."""
        return self._clerk.snapshot

    @property
    def begun(self) -> bool:
        """Whether it was ever given anything, and so has its thread."""
        return self._thread is not None

    def submit(self, operation: Operation) -> None:
        """Queues an operation; it is answered for certain."""
        self._operations.append(operation)
        self._wake()
        if self._ended:  # the thread may have looked for the last time before the append
            self._turn_away()

    def add(self, row: Row) -> None:
        """Queues a row."""
        if len(self._rows) >= MOST_WAITING:
            self._on_drop(1)
            return
        self._rows.append(row)
        if not self._rows_waiting:
            self._rows_waiting = True
            self._wake()
        if self._ended:
            self._turn_away()

    def stop(self) -> None:
        """Asks the thread to write everything and end."""
        self._stopping = True
        if self._thread is None:
            self._wake()  # only the thread closes the connection
        self._bell.ring()

    def join(self, timeout: float) -> bool:
        """Waits, for so many seconds at most, until the thread has ended. Returns whether it has."""
        with self._starting:  # another thread may be starting it at this very moment
            thread = self._thread
        if thread is None or thread is threading.current_thread():
            return self._ended
        thread.join(timeout)
        return not thread.is_alive()

    def on_own_thread(self) -> bool:
        """Whether the caller is the writer's thread, which must not wait for itself."""
        return threading.current_thread() is self._thread

    def _wake(self) -> None:
        if self._thread is None:
            self._start()
        self._bell.ring()

    def _start(self) -> None:
        with self._starting:
            if self._thread is not None:
                return
            self._thread = thread = threading.Thread(target=self._run, name="router-ledger", daemon=True)
            try:
                thread.start()
            except RuntimeError:  # the interpreter is ending and starts no more threads
                self._stopping = True
                self._run()

    def _run(self) -> None:
        try:
            while not self._stopping:
                self._turn()
                if not self._stopping:
                    self._bell.wait(self._pause())
            while self._operations or self._rows:
                self._turn(all_rows=True)
        finally:
            self._ended = True
            self._turn_away()
            with self.using:
                for ask in self._teller.dismiss():
                    turn_away(ask)
                self._clerk.close()
            PROCESS.discharge(self)

    def _turn(self, *, all_rows: bool = False) -> None:
        try:
            with self.using:
                self._keep_up()
                visits = self._answer_operations()
                self._write_rows(everything=all_rows or bool(visits))
                for visit in visits:
                    self._clerk.visit(visit)
        except Exception:  # noqa: BLE001 - a mistake of ours must not leave everybody waiting for ever
            _log.exception("the ledger's thread made a mistake and goes on")

    def _answer_operations(self) -> list[Visit]:
        """Handles all the money that is queued; returns the visits, which come after the rows."""
        money: list[Change] = []
        visits: list[Visit] = []
        for _ in range(len(self._operations)):
            operation = self._operations.popleft()
            if isinstance(operation, Visit):
                visits.append(operation)
            else:
                money.append(operation)
                self._watch = self._watch or isinstance(operation, Take)  # it must show that it lives
        if money:
            self._send(self._teller.group(money))
            now, waiting = time.monotonic(), self._teller.busy
            if self._clerk.crowded or waiting:  # who holds the places, or the money, may be dead
                self._beat_due = min(self._beat_due, now + LOOK)
            if waiting:
                self._look_due = min(self._look_due, now + self._glance())
        return visits

    def _send(self, answered: Answered) -> None:
        """Answers, and takes back what was granted to those who are not there any more."""
        answers = Answers()
        for operation, answer in answered:
            answers.add(operation, answer)
        for lost in answers.send():
            self._operations.append(Settle(lost.key, lost.model, lost.task, None, ignore))
            self._bell.ring()

    def _glance(self) -> float:
        """Seconds until the next look while somebody waits. Alone in memory, only the hour can change."""
        return GLANCE * random.uniform(0.5, 1.5) if self._watch else LOOK  # noqa: S311 - no secret

    def _write_rows(self, *, everything: bool) -> None:
        now = time.monotonic()
        if self._rows_waiting and self._rows_due is None:
            self._rows_due = now + DELAY
        if not everything and (self._rows_due is None or now < self._rows_due):
            return
        # First the flag, then the rows: whoever appends after this rings again.
        self._rows_waiting = False
        self._rows_due = None
        left = len(self._rows)
        while left > 0:
            batch = [self._rows.popleft() for _ in range(min(BATCH, left))]
            left -= len(batch)
            dropped = self._clerk.rows(batch)
            if dropped:
                self._on_drop(dropped)
            if self._operations and left and not everything:  # money goes first; the rest is due at once
                self._rows_waiting = True
                self._rows_due = now
                return

    def _keep_up(self) -> None:
        now = time.monotonic()
        if now >= self._beat_due:
            self._beat_due = now + (LOOK if self._teller.busy else BEAT)
            self._clerk.upkeep()
        if self._looks and now >= self._look_due:
            self._send(self._teller.look())
            self._look_due = now + (self._glance() if self._teller.busy else LOOK)

    @property
    def _looks(self) -> bool:
        return self._watch or self._clerk.owes or self._teller.busy

    def _pause(self) -> float | None:
        """Seconds to sleep unless the bell rings; None: until it does."""
        due = []
        if self._rows_due is not None:
            due.append(self._rows_due)
        if self._watch:
            due.append(self._beat_due)
        if self._looks:
            due.append(self._look_due)
        return min(due) - time.monotonic() if due else None

    def _turn_away(self) -> None:
        """Answers what came after the end; any thread may."""
        with contextlib.suppress(IndexError):  # the other thread took the last one
            while True:
                turn_away(self._operations.popleft())
        with contextlib.suppress(IndexError):
            while True:
                self._rows.popleft()
                self._on_drop(1)
