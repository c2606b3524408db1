"""The part of the ledger that reads: decisions for replay and learning, sums for reports.

It waits for what was queued before it, so that everybody reads what they wrote; keep it off event loops.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, cast

from router.ledger.desk import Desk
from router.ledger.process import PROCESS
from router.ledger.rows import DecisionRow

if TYPE_CHECKING:
    import sqlite3

    from router.ledger.operations import Operation
    from router.ledger.reading import GroupBy, Total

__all__ = ["Reports"]

_T = TypeVar("_T")
#: Seconds that reading waits for what was queued before it.
READ_WAITS = 10.0


class Reports:
    """What can be read from a ledger.

    In a file, by a connection that lives as long as the query; in memory, on the writer's thread.

    Raises:
        RouterClosedError: if a ledger in memory is closed.
        TimeoutError: if the writer's thread is kept busy for more than ten seconds.
        sqlite3.Error: if the file cannot be read.
    """

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

    def _read(self, work: Callable[[sqlite3.Connection], _T]) -> _T:
        """Runs a query: on a connection of its own, or in memory on the writer's thread."""
        if self._path is None:
            return cast("_T", self._visit(work, READ_WAITS))
        from router.ledger.schema import open_reader

        if not self._desk.closed:
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
        self._submit(visit)
        return visit.future.result(timeout)

    def _submit(self, operation: Operation) -> None:
        if self._desk.closed:
            from router.ledger.operations import turn_away

            turn_away(operation)
        else:
            self._desk.writer().submit(operation)
