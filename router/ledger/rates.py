"""What all processes that share the file send to models with limits: per second, and at once.

Used by the writer's thread alone, inside a transaction that holds the write lock. How many requests a process
has under way is kept in its memory and written as a whole, so that a transaction that failed leaves nothing
wrong behind; what a process that died had under way is freed with its reservations (`router.ledger.owners`).
"""

from __future__ import annotations

import math
import sqlite3

from router.ledger.money import clean
from router.limits.store import Ask, Limits

__all__ = ["Rates"]

#: Seconds that a second's requests count for after it has ended.
MINUTE = 60
#: Seconds after which somebody asks again for a place that another process holds, at the least and most.
SOONEST, LATEST = 0.01, 0.25


class Rates:
    """The shared counts of requests and tokens per minute and of requests at once.

    Attributes:
        crowded: Whether a place was refused since others hold them: perhaps they do not live any more.
    """

    def __init__(self, connection: sqlite3.Connection, owner: str) -> None:
        self.crowded = False
        self._connection = connection
        self._owner = owner
        self._running: dict[str, int] = {}
        self._before: dict[str, int] = {}  # what the running transaction changed of it

    def take(self, ask: Ask, at: float) -> tuple[int, float]:
        """Takes places for the first of those who ask, as many as there are.

        Returns:
            How many may go, and the seconds after which it is worth asking for the others.
        """
        everything = ((ask.model, ask.limits), *ask.also)
        granted = min(self._room(model, limits, ask.tokens, at) for model, limits in everything)
        taken = sum(ask.tokens[:granted])
        if granted:
            for model, _ in everything:
                self._count(clean(model), at, granted, taken)
                self._run(clean(model), granted)
        if granted == len(ask.tokens):
            return granted, 0.0
        return granted, max(self._room_in(one, ask, granted, at) for one in everything)

    def _room(self, model: str, limits: Limits, wanted: tuple[int, ...], at: float) -> int:
        """How many of the first of these requests may go, as far as one limit is concerned."""
        model = clean(model)
        rpm, tpm, places = limits
        sent, tokens = self._sent(model, at)
        free = math.inf if places is None else places - self._others(model) - self._running.get(model, 0)
        granted, taken = 0, 0
        for each in wanted:
            if granted >= free or (rpm is not None and sent + granted >= rpm):
                break
            if tpm is not None and tokens + taken + min(each, tpm) > tpm:
                break
            granted += 1
            taken += each
        return granted

    def confirm(self) -> None:
        """To be called after the commit."""
        self._before.clear()

    def forget(self) -> None:
        """To be called when the transaction was rolled back."""
        self._running.update(self._before)
        self._before.clear()

    def force(self, model: str, more: int) -> None:
        """So many more are under way, fewer if negative, although nothing could be written.

        The file fails, and each process goes by its own count until it works again.
        """
        model = clean(model)
        self._running[model] = max(self._running.get(model, 0) + more, 0)

    def correct(self, model: str, requests: int, tokens: int, at: float) -> None:
        """Changes what was counted at a time."""
        model = clean(model)
        if requests > 0:
            self._count(model, at, requests, tokens)
            return
        self._connection.execute(
            "UPDATE sent SET requests = requests + ?, tokens = tokens + ? WHERE model = ? AND owner = ? "
            "AND second = (SELECT max(second) FROM sent WHERE model = ? AND owner = ? AND second <= ?)",
            (requests, tokens, model, self._owner, model, self._owner, math.floor(at) + 1),
        )

    def give(self, model: str, requests: int) -> None:
        """So many requests are over."""
        self._run(clean(model), -requests)

    def _count(self, model: str, at: float, requests: int, tokens: int) -> None:
        self._connection.execute(
            "INSERT INTO sent VALUES (?, ?, ?, ?, ?) ON CONFLICT DO UPDATE "
            "SET requests = requests + excluded.requests, tokens = tokens + excluded.tokens",
            (model, math.floor(at), self._owner, requests, tokens),
        )

    def _run(self, model: str, more: int) -> None:
        before = self._running.get(model, 0)
        self._before.setdefault(model, before)
        self._running[model] = max(before + more, 0)
        self._connection.execute(
            "INSERT OR REPLACE INTO places VALUES (?, ?, ?)", (model, self._owner, self._running[model])
        )

    def _sent(self, model: str, at: float) -> tuple[int, int]:
        """Requests and tokens that count now. Those of a clock that was ahead count for nothing."""
        now = math.floor(at)
        self._connection.execute("DELETE FROM sent WHERE model = ? AND second < ?", (model, now - 2 * MINUTE))
        requests, tokens = self._connection.execute(
            "SELECT coalesce(sum(requests), 0), coalesce(sum(tokens), 0) FROM sent "
            "WHERE model = ? AND second BETWEEN ? AND ?",
            (model, now - MINUTE, now + MINUTE),
        ).fetchone()
        return requests, tokens

    def _others(self, model: str) -> int:
        row = self._connection.execute(
            "SELECT coalesce(sum(running), 0) FROM places WHERE model = ? AND owner <> ?",
            (model, self._owner),
        ).fetchone()
        return int(row[0])

    def _room_in(self, one: tuple[str, Limits], ask: Ask, granted: int, at: float) -> float:
        """Seconds until one limit lets the next of those who ask go; it was told of those who went."""
        model, (rpm, tpm, places) = clean(one[0]), one[1]
        if places is not None and places <= self._others(model) + self._running.get(model, 0):
            self.crowded = True
            return min(max(ask.service / places, SOONEST), LATEST)
        now = math.floor(at)
        sent, tokens = self._sent(model, at)
        requests = 0 if rpm is None else sent + 1 - rpm
        excess = 0 if tpm is None else tokens + min(ask.tokens[granted], tpm) - tpm
        rows = self._connection.execute(
            "SELECT second, sum(requests), sum(tokens) FROM sent WHERE model = ? AND second BETWEEN ? AND ? "
            "GROUP BY second ORDER BY second",
            (model, now - MINUTE, now + MINUTE),
        )
        free_at = at
        for second, gone, gone_tokens in rows:
            if requests <= 0 and excess <= 0:
                break
            requests -= gone
            excess -= gone_tokens
            free_at = second + 1 + MINUTE
        return max(free_at - at, SOONEST)
