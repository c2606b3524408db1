"""Finds the writer of this process, and makes one where there is none yet.

Apart from `Ledger`, so that a ledger nobody holds any more can be collected while its writer still works.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from router.ledger.process import PROCESS

if TYPE_CHECKING:
    import sqlite3

    from pydantic import SecretStr

    from router.allowances import Budget
    from router.ledger.operations import Operation
    from router.ledger.writer import Writer

__all__ = ["Desk", "FarDesk", "let_go"]


class Desk:
    """The way to the writer.

    Attributes:
        closed: Whether nothing more is taken.
        dropped: Rows that this process did not write.
        generation: The fork generation that the writer belongs to.
    """

    def __init__(self, path: Path | None, budgets: Sequence[Budget], wall: Callable[[], float]) -> None:
        """Opens the file, if there is to be one.

        Raises:
            ConfigurationError: if it cannot be used.
        """
        self.closed = False
        self.dropped = 0
        self.generation = PROCESS.generation
        self._lock = threading.Lock()
        self._path, self._budgets, self._wall = path, budgets, wall
        self._writer: Writer | None = None
        if path is not None:
            from router.ledger.schema import open_file

            with PROCESS.using:
                self._writer = self._hire(open_file(path))

    def writer(self) -> Writer:
        """The writer of this process."""
        writer = self.known_writer()
        return self._renew() if writer is None else writer

    def submit(self, operation: Operation) -> None:
        """Has the writer do something; what comes after the end is turned away."""
        if self.closed:
            from router.ledger.operations import turn_away

            turn_away(operation)
        else:
            self.writer().submit(operation)

    def flush(self, timeout: float | None) -> bool:
        """Waits until all that was queued is done. Returns whether that was in time (s)."""
        from router.errors import RouterClosedError
        from router.ledger.operations import Visit

        if self.closed:
            return True
        if self.writer().on_own_thread():
            raise RuntimeError("a callback of the ledger must not wait for the ledger's own thread")
        visit = Visit(None)
        self.submit(visit)
        try:
            visit.future.result(timeout)
        except (TimeoutError, RouterClosedError):
            return False
        return True

    def known_writer(self) -> Writer | None:
        """The writer, unless there is none in this process yet."""
        return self._writer if self.generation == PROCESS.generation else None

    @property
    def begun(self) -> bool:
        """Whether this process ever gave its writer anything; if not, there is nothing to wait for."""
        writer = self.known_writer()
        return writer is not None and writer.begun

    def drop(self, rows: int) -> None:
        """Counts rows that were not written."""
        with self._lock:
            self.dropped += rows

    def _renew(self) -> Writer:
        with PROCESS.lock:  # after a fork our own lock may be held by a thread that is not here
            if self.generation != PROCESS.generation:
                self._lock = threading.Lock()
                self._writer = None
                self.dropped = 0
            if self._writer is None:
                self._writer = self._hire(None)
            self.generation = PROCESS.generation
            return self._writer

    def _hire(self, connection: sqlite3.Connection | None) -> Writer:
        from router.ledger.clerk import Clerk
        from router.ledger.schema import open_file, open_memory
        from router.ledger.writer import Writer

        path = self._path
        connect = open_memory if path is None else functools.partial(open_file, path)
        clerk = Clerk(connect, self._budgets, shared=path is not None, wall=self._wall, connection=connection)
        return Writer(
            clerk,
            budgets=self._budgets,
            watch=path is not None and bool(self._budgets),
            on_drop=self.drop,
        )


class FarDesk(Desk):
    """The way to the writer whose books are on a server, for money and limits alone."""

    def __init__(self, url: SecretStr, budgets: Sequence[Budget], wall: Callable[[], float]) -> None:
        """Connects to nothing yet.

        Raises:
            ConfigurationError: if the URL is none, or what talks to the server is not installed.
        """
        super().__init__(None, budgets, wall)
        self._url = url
        self._writer = self._hire(None)

    def _hire(self, _: sqlite3.Connection | None) -> Writer:
        from router.ledger.writer import Writer
        from router.loading import load_keeper

        keeper = load_keeper(self._url, self._budgets, self._wall)
        return Writer(keeper, budgets=self._budgets, watch=True, on_drop=self.drop)


def let_go(desk: Desk) -> None:
    """Has everything written, without waiting for it."""
    desk.closed = True
    writer = desk.known_writer()
    if writer is not None:
        writer.stop()
