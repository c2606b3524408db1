"""What is settled and reserved, in memory as it is in the file, and the rule that no budget is overrun.

The file keeps one amount per UTC hour, model and task; a budget is a sum over them. So a budget that is
declared later still sees what was spent before, and processes with different budgets can share a file.
Used by the writer's thread alone, inside a transaction that holds the write lock: then what is in memory,
once caught up, is what is in the file, and the check needs no further query.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, NamedTuple

from router.ledger.money import Account, Refusal, Standing, to_text, to_units, window

if TYPE_CHECKING:
    from router.allowances import Budget

__all__ = ["Books", "Held", "Snapshot"]

#: Hours after which everything is read again: others delete what reserves nothing any more after twice that
#: (`router.ledger.owners`), and who did not look meanwhile would count it for ever.
AWAY_HOURS = 24

SETTLED = ""
"""The owner of what is settled."""

Snapshot = tuple[Standing, ...]
"""Per budget, in the order declared."""


class Held(NamedTuple):
    """A reservation of this writer. It stays in the hour it was made in, also when it is settled later."""

    hour: int
    model: str
    task: str
    units: int


class _Key(NamedTuple):
    owner: str
    model: str
    task: str


class Books:
    """The amounts of the running periods, and the accounts of the budgets over them.

    Attributes:
        accounts: One per budget, in the order declared.
        held: This writer's open reservations, by key.
    """

    def __init__(self, connection: sqlite3.Connection, budgets: Sequence[Budget], owner: str) -> None:
        self.accounts = [Account.of(budget) for budget in budgets]
        self.held: dict[str, Held] = {}
        self._connection = connection
        self._owner = owner
        self._amounts: dict[int, dict[_Key, int]] = {}
        self._hour = -1
        self._floor = 0  # the first hour that is held in memory
        self._seq = 0
        self._loaded = False
        self._dirty: dict[tuple[int, _Key], int] = {}
        self._undo: list[tuple[str, Held | None]] = []

    def catch_up(self, hour: int) -> None:
        """Reads what other processes have changed, and moves on to the period of the hour.

        Raises:
            sqlite3.Error: if the file cannot be read.
        """
        if not self._loaded:
            self._load(hour)
            return
        if hour != self._hour:
            self._roll(hour)
        rows = self._connection.execute(
            "SELECT hour, owner, model, task, usd, seq FROM money WHERE seq > ?", (self._seq,)
        ).fetchall()
        for at, owner, model, task, usd, seq in rows:
            self._seq = max(self._seq, seq)
            if at >= self._floor:
                self._set(at, _Key(owner, model, task), to_units(Decimal(usd)))

    def reserve(self, key: str, model: str, task: str, units: int) -> Refusal | None:
        """Sets an amount aside if every budget that covers it has room."""
        if key in self.held:
            return self.taken(key, units)
        for account in self.accounts:
            if (
                units
                and account.covers(model, task)
                and account.settled + account.reserved + units > account.limit
            ):
                return account.refusal(units)
        self._hold(key, Held(self._hour, model, task, units))
        self._add(self._hour, _Key(self._owner, model, task), units)
        return None

    @staticmethod
    def taken(key: str, units: int) -> Refusal:
        """The refusal of a second reservation under one key."""
        because = f"ledger: {key!r} has a reservation already"
        return Refusal(None, Decimal(0), Decimal(to_text(units)), because)

    def refusal(self, model: str, task: str, units: int) -> Refusal:
        """The refusal of an amount that does not fit, or fits only if those before it are passed over.

        By the budget that can give it last: one that is spent, else the one that has least left.
        """
        accounts = [self.accounts[place] for place in self.covering(model, task)]
        return min(accounts, key=lambda one: (units <= one.free, one.left)).refusal(units)

    def covering(self, model: str, task: str) -> tuple[int, ...]:
        """The places of the accounts that such a request needs money from."""
        return tuple(place for place, account in enumerate(self.accounts) if account.covers(model, task))

    def restore(self) -> int:
        """Sets aside again what this writer holds and others freed. Returns how much, in attodollars."""
        held: dict[tuple[int, _Key], int] = {}
        for at, model, task, units in self.held.values():
            where = at, _Key(self._owner, model, task)
            held[where] = held.get(where, 0) + units
        missing = {where: units - self._amount(*where) for where, units in held.items()}
        for (at, key), units in missing.items():
            self._add(at, key, units)
        return sum(missing.values())

    def settle(self, key: str, model: str, task: str, units: int | None) -> None:
        """Puts what was really spent (None: nothing) in the place of a reservation."""
        held = self.held.get(key)
        if held is not None:
            self._hold(key, None)
            self._add(held.hour, _Key(self._owner, held.model, held.task), -held.units)
        if units:
            self.spend(held.hour if held is not None else self._hour, model, task, units)

    def spend(self, hour: int, model: str, task: str, units: int) -> None:
        """Books an amount that was never reserved."""
        self._add(hour, _Key(SETTLED, model, task), units)

    def write(self) -> None:
        """Writes what has changed; the caller commits.

        Raises:
            sqlite3.Error: if the file cannot be written.
        """
        if self._dirty:
            self._seq += 1
            self._connection.executemany(
                "INSERT OR REPLACE INTO money (hour, owner, model, task, usd, seq) VALUES (?, ?, ?, ?, ?, ?)",
                [(hour, *key, to_text(units), self._seq) for (hour, key), units in self._dirty.items()],
            )

    def confirm(self) -> None:
        """To be called after the commit."""
        self._dirty.clear()
        self._undo.clear()

    def forget(self) -> None:
        """To be called when the transaction was rolled back: memory is wrong until it is read again."""
        for key, held in reversed(self._undo):
            if held is None:
                self.held.pop(key, None)
            else:
                self.held[key] = held
        self.confirm()
        self._loaded = False

    def snapshot(self) -> Snapshot:
        """What is left, for readers on other threads."""
        return tuple(
            Standing(account.start, account.end, account.left, account.free) for account in self.accounts
        )

    def _load(self, hour: int) -> None:
        self._hour = hour
        self._move_windows(hour)
        self._amounts = {}
        self._seq = self._connection.execute("SELECT coalesce(max(seq), 0) FROM money").fetchone()[0]
        rows = self._connection.execute(
            "SELECT hour, owner, model, task, usd FROM money WHERE hour >= ?", (self._floor,)
        )
        for at, owner, model, task, usd in rows:
            self._amounts.setdefault(at, {})[_Key(owner, model, task)] = to_units(Decimal(usd))
        for account in self.accounts:
            self._sum(account)
        self._loaded = True

    def _roll(self, hour: int) -> None:
        """Moves on to another hour; back to an earlier one, too, if the clock was set back."""
        floor, away, self._hour = self._floor, abs(hour - self._hour), hour
        moved = self._move_windows(hour)
        if self._floor < floor or away >= AWAY_HOURS:
            self._load(hour)
            return
        for old in [at for at in self._amounts if at < self._floor]:
            del self._amounts[old]
        for account in moved:
            self._sum(account)

    def _move_windows(self, hour: int) -> list[Account]:
        moved = []
        for account in self.accounts:
            start, end = window(account.budget.period, hour)
            if (start, end) != (account.start, account.end):
                account.start, account.end = start, end
                moved.append(account)
        self._floor = min((account.start for account in self.accounts), default=hour)
        return moved

    def _sum(self, account: Account) -> None:
        account.settled = account.reserved = 0
        for at, amounts in self._amounts.items():
            if account.start <= at < account.end:
                _book(account, amounts.items())

    def _hold(self, key: str, held: Held | None) -> None:
        self._undo.append((key, self.held.get(key)))
        if held is None:
            del self.held[key]
        else:
            self.held[key] = held

    def _add(self, hour: int, key: _Key, units: int) -> None:
        if units == 0:
            return
        # Below 0 would only come of a reservation that others freed because they took us for dead.
        amount = max(0, self._amount(hour, key) + units)
        self._dirty[hour, key] = amount
        if hour >= self._floor:
            self._set(hour, key, amount)

    def _amount(self, hour: int, key: _Key) -> int:
        if (hour, key) in self._dirty:
            return self._dirty[hour, key]
        if hour >= self._floor:
            return self._amounts.get(hour, {}).get(key, 0)
        row = self._connection.execute(
            "SELECT usd FROM money WHERE hour = ? AND owner = ? AND model = ? AND task = ?", (hour, *key)
        ).fetchone()
        return to_units(Decimal(row[0])) if row else 0

    def _set(self, hour: int, key: _Key, amount: int) -> None:
        amounts = self._amounts.setdefault(hour, {})
        change = amount - amounts.get(key, 0)
        amounts[key] = amount
        for account in self.accounts:
            if account.start <= hour < account.end:
                _book(account, ((key, change),))


def _book(account: Account, changes: Iterable[tuple[_Key, int]]) -> None:
    for (owner, model, task), units in changes:
        if not account.covers(model, task):
            continue
        if owner == SETTLED:
            account.settled += units
        else:
            account.reserved += units
