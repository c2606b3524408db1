"""The part of the ledger that reads: decisions for replay and learning, sums for reports.

It waits for what was queued before it, so that everybody reads what they wrote; keep it off event loops.
"""

from __future__ import annotations

import functools
import logging
import math
from collections.abc import Callable, Iterable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, cast

from router.ledger.desk import Desk
from router.ledger.process import PROCESS
from router.ledger.records import DecisionRow

if TYPE_CHECKING:
    import sqlite3

    from router.ledger.reading import GroupBy, Total
    from router.ledger.recent import PastAttempt

__all__ = ["Reports"]

_log = logging.getLogger("router.ledger")
_T = TypeVar("_T")
#: Seconds that reading waits for what was queued before it.
READ_WAITS = 10.0


class Reports:
    """What can be read from a ledger.

    In a file, by a connection that lives as long as the query; in memory, on the writer's thread.

    Attributes:
        unread: Why the last `recent` could not read the file; None if it could.

    Raises:
        RouterClosedError: if a ledger in memory is closed (not by `recent`).
        TimeoutError: if the writer's thread is kept busy for more than ten seconds (not by `recent`).
        sqlite3.Error: if the file cannot be read (not by `recent`).
    """

    unread: str | None = None
    _desk: Desk
    _path: Path | None

    def spent(
        self, since: float | None = None, until: float | None = None, by: GroupBy | None = None
    ) -> dict[str, Decimal]:
        """USD booked between two Unix times, widened to whole hours, by model or task.

        Requests without a task, and everything if not grouped, stand under `""`.
        """
        from router.ledger import reading

        return self._read(lambda connection: reading.spent(connection, since, until, by))

    def totals(
        self, since: float | None = None, until: float | None = None, by: GroupBy | None = None
    ) -> dict[str, Total]:
        """Attempts, tokens and cost of the decisions recorded between two Unix times, by model or task."""
        from router.ledger import reading

        return self._read(lambda connection: reading.totals(connection, since, until, by))

    def decisions(self, limit: int | None = None, since: float | None = None) -> Iterator[DecisionRow]:
        """The recorded decisions, in the order they were recorded; with a limit, the newest so many.

        Read in pages: a slow consumer holds nothing open.
        """
        from router.ledger import reading

        place = 0
        if limit is not None:
            place = self._read(lambda connection: reading.newest(connection, limit, since))
        left = math.inf if limit is None else limit
        while left > 0:
            found = self._read(functools.partial(reading.page, after=place, since=since))
            for place, row in found:  # noqa: B007 - the last place is where the next page begins
                if left <= 0:
                    return
                left -= 1
                yield row
            if len(found) < reading.PAGE:
                return

    def recent(
        self, most: int = 2000, *, since: float | None = None, models: Iterable[str] | None = None
    ) -> tuple[PastAttempt, ...]:
        """The newest attempts that are over, oldest first: what a router that starts can learn from.

        Attempts that a limit or a budget refused are left out, and so are cancelled ones of unknown length.
        Takes a few milliseconds, however large the file is: beyond `most`, some 20,000 attempts are looked
        at, and no older ones. Starts no thread; a ledger in memory that was never used stays untouched.

        Never fails, since a router must start without a past, too: a file that is damaged, locked or gone
        gives an empty tuple, `unread` tells why, and so does a warning in the log `router.ledger`.

        Args:
            most: How many at most.
            since: Only attempts of decisions made at this Unix time (s) or later.
            models: The newest `most` of each of these, instead of the newest of all; `since` does not count.
        """
        from router.ledger.recent import recent, recent_of_each

        self.unread = None
        if self._path is None and not self._desk.begun:
            return ()
        try:
            if models is not None:
                names = tuple(models)
                return self._read(lambda connection: recent_of_each(connection, names, most))
            return self._read(lambda connection: recent(connection, most, since))
        except _unreadable() as error:
            self.unread = f"{type(error).__name__}: {error}"
            _log.warning("the ledger's past cannot be read, nothing is learned from it: %s", self.unread)
            return ()

    def _read(self, work: Callable[[sqlite3.Connection], _T]) -> _T:
        """Runs a query: on a connection of its own, or in memory on the writer's thread."""
        if self._path is None:
            return cast("_T", self._visit(work, READ_WAITS))
        from router.ledger.schema import open_reader

        if self._desk.begun and not self._desk.closed:
            self._visit(None, READ_WAITS)
        with PROCESS.using:
            connection = open_reader(self._path)
            try:
                return work(connection)
            finally:
                connection.close()

    def _visit(self, work: Callable[[sqlite3.Connection], object] | None, timeout: float | None) -> object:
        """Waits for the writer's thread to run some work behind all that is queued."""
        from router.ledger.operations import Visit

        visit = Visit(work)
        if not self._desk.closed and self._desk.writer().on_own_thread():
            raise RuntimeError("a callback of the ledger must not wait for the ledger's own thread")
        self._desk.submit(visit)
        return visit.future.result(timeout)


def _unreadable() -> tuple[type[Exception], ...]:
    """What reading fails with when the file, and not the caller, is at fault."""
    import sqlite3

    from router.errors import ConfigurationError, RouterClosedError

    return sqlite3.Error, OSError, TimeoutError, ConfigurationError, RouterClosedError
