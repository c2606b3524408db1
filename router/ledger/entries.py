"""Puts finished decisions, their texts and scores into the file; inside a transaction of the clerk's."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeAlias

from router.ledger.books import Books
from router.ledger.money import clean, hour_of, to_units
from router.ledger.records import Exchange, Feedback
from router.ledger.rows import (
    INSERT_ATTEMPT,
    INSERT_DECISION,
    attempt_money,
    attempt_rows,
    decision_row,
    text_row,
)

if TYPE_CHECKING:
    from router.decision import Decision

__all__ = ["Row", "insert"]

Row: TypeAlias = "tuple[Decision, Exchange | None] | Feedback"

#: Rows encoded at a stretch. Encoding holds the interpreter's lock, inserting gives it back after each row;
#: short stretches keep event loops responsive.
STRETCH = 32

_INSERT_TEXT = "INSERT OR REPLACE INTO texts VALUES (?, ?, ?)"
_INSERT_FEEDBACK = "INSERT INTO feedback (decision_id, score, at) VALUES (?, ?, ?)"


def insert(connection: sqlite3.Connection, books: Books, batch: Sequence[Row]) -> int:
    """Writes rows, and books what no budget covers. Returns the number of the last decision.

    Raises:
        sqlite3.Error: if the file cannot be written.
    """
    last: int = connection.execute("SELECT coalesce(max(n), 0) FROM decisions").fetchone()[0]
    for start in range(0, len(batch), STRETCH):
        last = _insert_some(connection, books, batch[start : start + STRETCH], last)
    return last


def _insert_some(connection: sqlite3.Connection, books: Books, batch: Sequence[Row], last: int) -> int:
    decisions, attempts, texts, scores = [], [], [], []
    for row in batch:
        if isinstance(row, Feedback):
            scores.append(row)
            continue
        decision, exchange = row
        last += 1
        decisions.append(decision_row(last, decision))
        attempts += attempt_rows(last, decision)
        if exchange is not None:
            texts.append(text_row(last, exchange))
        _spend(books, decision)
    for statement, rows in (
        (INSERT_DECISION, decisions),
        (INSERT_ATTEMPT, attempts),
        (_INSERT_TEXT, texts),
        (_INSERT_FEEDBACK, scores),
    ):
        if rows:
            connection.executemany(statement, rows)
    return last


def _spend(books: Books, decision: Decision) -> None:
    """Books what no budget covers; what a budget covers is booked when it is settled, and only then."""
    task = clean(decision.features.task or "")
    for attempt in decision.attempts:
        usd, model = attempt_money(attempt), clean(attempt.model)
        if usd is not None and not any(account.covers(model, task) for account in books.accounts):
            books.spend(hour_of(decision.at), model, task, to_units(usd))
