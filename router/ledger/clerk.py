"""Every transaction of the ledger: money in groups, rows in batches, the upkeep of what others left behind.

The clerk belongs to the writer's thread. Whatever the file does (full disk, locked, damaged, gone), its
methods return and say so: rows are dropped and counted, money that cannot be checked is refused, and money
that was spent but could not be booked is owed: it keeps its reservation and is booked when that works again.
"""

from __future__ import annotations

import contextlib
import logging
import sqlite3
import uuid
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, TypeVar

from router.errors import ConfigurationError
from router.ledger.books import Books, Snapshot
from router.ledger.entries import Row, insert
from router.ledger.money import Refusal, hour_of, to_usd
from router.ledger.operations import Answer, Change, Give, Reserve, Settle, Take, Visit
from router.ledger.owners import BEAT, Owner, is_signed_in, reap, release
from router.ledger.rates import Rates
from router.ledger.rows import trim

if TYPE_CHECKING:
    from router.allowances import Budget

__all__ = ["Clerk", "Row"]

_log = logging.getLogger("router.ledger")
_T = TypeVar("_T")

#: Seconds between two signs of life from which on this process must itself have been stopped (the machine
#: slept): then the others' silence says nothing.
SLEPT = 3.0 * BEAT
_FAILURES = (sqlite3.Error, ConfigurationError)


class Clerk:
    """Owns the connection and the books.

    Attributes:
        snapshot: What the budgets had left after the last transaction.
    """

    def __init__(
        self,
        connect: Callable[[], sqlite3.Connection],
        budgets: Sequence[Budget],
        *,
        shared: bool,
        wall: Callable[[], float],
        connection: sqlite3.Connection | None = None,
    ) -> None:
        """Does nothing yet.

        Args:
            connect: Opens the connection, on the writer's thread, unless one is given.
            budgets: All that must be kept.
            shared: Whether other processes may use the same file.
            wall: The Unix time in seconds.
            connection: One that is open already.
        """
        self._connect = connect
        self._budgets = budgets
        self._shared = shared
        self._wall = wall
        self._name = uuid.uuid4().hex
        self._connection = connection
        self._books: Books | None = None
        self._rates: Rates | None = None
        self._signed = False
        self._beat_at: float | None = None
        self._owed: dict[str, Settle] = {}
        self._complained = False
        self.snapshot: Snapshot = ()

    @property
    def owes(self) -> bool:
        """Whether money was spent that could not be booked yet."""
        return bool(self._owed)

    @property
    def crowded(self) -> bool:
        """Whether a place at a model was refused because of other processes; asking resets it."""
        rates, crowded = self._rates, False
        if rates is not None:
            crowded, rates.crowded = rates.crowded, False
        return crowded

    def group(self, operations: Sequence[Change]) -> list[Answer]:
        """Reserves, settles, takes and gives in one transaction; the answers once it is committed."""
        try:
            answers = self._commit(lambda books: self._money(books, operations))
        except Exception as error:  # noqa: BLE001 - everybody who waits gets an answer, and it is no
            self._complain(error, "reserves nothing and owes what was spent")
            return [self._fail(operation, error) for operation in operations]
        self._owed.clear()
        self._signed = True
        return answers

    def rows(self, batch: Sequence[Row]) -> int:
        """Writes rows in one transaction. Returns how many were dropped."""
        try:
            self._commit(lambda books: self._insert(books, batch))
        except (sqlite3.OperationalError, ConfigurationError) as error:
            self._complain(error, "drops decisions")
            return len(batch)
        except Exception as error:  # noqa: BLE001 - an odd row must not take the others with it
            if len(batch) > 1:
                return sum(self.rows([row]) for row in batch)
            _log.warning("the ledger cannot write a row: %s", type(error).__name__)
            return 1
        return 0

    def look(self) -> None:
        """Reads what other processes booked, and tries again to book what is owed."""
        if self._owed:
            self.group(())
            return
        try:
            _, books = self._open()
            books.catch_up(self._hour())
            self.snapshot = books.snapshot()
        except _FAILURES as error:
            self._complain(error, "cannot be read")

    def upkeep(self) -> None:
        """Frees what dead processes had reserved, and says that this one still lives."""
        if not self._shared:
            return
        try:
            connection, _ = self._open()
            now, before = self._wall(), self._beat_at
            self._beat_at = now
            slept = before is not None and abs(now - before) > SLEPT
            try:
                reap(connection, now, but=self._name, by_beat=not slept)
            finally:
                self._roll_back(connection)
            if self._signed:
                self._commit(lambda books: self._sign(connection, books))
        except _FAILURES as error:
            self._complain(error, "cannot be kept up")

    def visit(self, visit: Visit) -> None:
        """Runs a piece of work on the connection and keeps its result or its error."""
        try:
            result = visit.work(self._open()[0]) if visit.work is not None else None
        except BaseException as error:  # noqa: BLE001 - whatever it is, it belongs to the one who waits
            visit.future.set_exception(error)
        else:
            visit.future.set_result(result)

    def close(self) -> None:
        """Frees this writer's reservations and closes the connection."""
        if self._owed:
            self.group(())
        if self._owed:
            owed = to_usd(sum(settle.units or 0 for settle in self._owed.values()))
            _log.error("the ledger is closed with %s USD spent and not booked", owed)
        connection = self._connection
        if connection is None:
            return
        with contextlib.suppress(*_FAILURES):
            if self._signed:
                self._commit(lambda _: release(connection, self._name))
        with contextlib.suppress(sqlite3.Error):
            connection.close()

    def _open(self) -> tuple[sqlite3.Connection, Books]:
        if self._connection is None:
            self._connection = self._connect()
        if self._books is None:
            self._books = Books(self._connection, self._budgets, self._name)
            self._rates = Rates(self._connection, self._name)
        return self._connection, self._books

    def _hour(self) -> int:
        return hour_of(self._wall())

    def _commit(self, work: Callable[[Books], _T]) -> _T:
        connection, books = self._open()
        try:
            connection.execute("BEGIN IMMEDIATE")
            books.catch_up(self._hour())
            result = work(books)
            books.write()
            connection.execute("COMMIT")
        except BaseException:
            books.forget()
            if self._rates is not None:
                self._rates.forget()
            self._roll_back(connection)
            raise
        books.confirm()
        if self._rates is not None:
            self._rates.confirm()
        self.snapshot = books.snapshot()
        self._complained = False
        return result

    @staticmethod
    def _roll_back(connection: sqlite3.Connection) -> None:
        if connection.in_transaction:
            with contextlib.suppress(sqlite3.Error):
                connection.execute("ROLLBACK")

    def _money(self, books: Books, operations: Sequence[Change]) -> list[Answer]:
        if self._connection is not None and not (self._signed and self._is_known(self._connection)):
            self._sign(self._connection, books)
        for settle in self._owed.values():
            books.settle(settle.key, settle.model, settle.task, settle.units)
        return [self._change(books, operation) for operation in operations]

    def _change(self, books: Books, operation: Change) -> Answer:
        match operation:
            case Reserve(key, model, task, units):
                return books.reserve(key, model, task, units)
            case Settle(key, model, task, units):
                books.settle(key, model, task, units)
            case Take(ask) if self._rates is not None:
                return self._rates.take(ask, self._wall())
            case Give() if self._rates is not None:
                self._rates.give(operation.model, operation.over)
                if operation.requests or operation.tokens:
                    self._rates.correct(operation.model, operation.requests, operation.tokens, operation.at)
        return True

    def _is_known(self, connection: sqlite3.Connection) -> bool:
        return not self._shared or is_signed_in(connection, self._name)

    def _sign(self, connection: sqlite3.Connection, books: Books) -> None:
        """Says that this writer lives; if it was taken for dead meanwhile, it sets aside again what it holds.

        Others may have reserved what they freed: then more may be spent than a budget allows, by as much as
        the calls cost that were under way here. That is told, and from now on it is counted.
        """
        if not self._shared:
            return
        buried = self._signed and not is_signed_in(connection, self._name)
        if buried and (usd := to_usd(books.restore())):
            _log.warning("others took this process for dead: %s USD are set aside again for its calls", usd)
        Owner.here(self._name).sign(connection, self._wall())

    def _fail(self, operation: Change, error: Exception) -> Answer:
        match operation:
            case Reserve():
                return Refusal(None, Decimal(0), to_usd(operation.units), f"ledger: {error}")
            case Settle():
                self._owed[operation.key] = operation
            case Take(ask):
                if self._rates is not None:
                    self._rates.force(ask.model, len(ask.tokens))
                return len(ask.tokens), 0.0
            case Give() if self._rates is not None:
                self._rates.force(operation.model, -operation.over)
        return False

    def _complain(self, error: Exception, what: str) -> None:
        """Once per outage."""
        if not self._complained:
            _log.warning("the ledger %s: %s", what, error)
        self._complained = True

    def _insert(self, books: Books, batch: Sequence[Row]) -> None:
        connection = self._open()[0]
        last = insert(connection, books, batch)
        if not self._shared:
            trim(connection, last)
