"""A file that fails: decisions may be lost, and are counted; money is refused, and never forgotten."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import pytest

from router.config import Budget
from router.ledger import Exchange, Ledger, schema
from tests.ledger.making import decision, reserve, settle, wait_until

DAY = Budget(usd=1.0)


@pytest.fixture
def ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ledger]:
    monkeypatch.setattr(schema, "BUSY_TIMEOUT", 0.05)
    ledger = Ledger(tmp_path / "l.db", [DAY], keep_text=True)
    yield ledger
    assert ledger.close()


@pytest.fixture
def locked(tmp_path: Path, ledger: Ledger) -> Iterator[sqlite3.Connection]:
    """Another program that holds the write lock until it commits."""
    connection = sqlite3.connect(tmp_path / "l.db", isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    yield connection
    connection.close()


def test_while_the_file_is_locked_money_is_refused_and_decisions_are_counted_as_dropped(
    ledger: Ledger, locked: sqlite3.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "router.ledger"):
        refusal = reserve(ledger, "1", "0.1")
        assert refusal is not None
        assert refusal.budget is None
        assert refusal.because.startswith("ledger: database is locked")
        for number in range(3):
            ledger.record(decision(number))
            ledger.flush()
    assert ledger.dropped == 3
    assert [record.levelname for record in caplog.records] == ["WARNING"], "one warning per outage"
    locked.execute("COMMIT")
    assert reserve(ledger, "2", "0.1") is None
    ledger.record(decision(9))
    assert [row.id for row in ledger.decisions()] == ["9"]


def test_a_cost_that_cannot_be_booked_keeps_its_reservation_and_is_booked_later(
    ledger: Ledger, tmp_path: Path
) -> None:
    assert reserve(ledger, "1", "0.6") is None
    other = sqlite3.connect(tmp_path / "l.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    assert settle(ledger, "1", "0.5") is False
    assert ledger.left(DAY) == Decimal("0.4")
    other.execute("COMMIT")
    other.close()
    wait_until(lambda: ledger.left(DAY) == Decimal("0.5"))
    assert ledger.spent() == {"": Decimal("0.5")}


def test_a_full_disk_stops_neither_the_thread_nor_the_books(ledger: Ledger) -> None:
    assert reserve(ledger, "1", "0.6") is None
    pages = "PRAGMA max_page_count={}"

    def fill(connection: sqlite3.Connection) -> None:
        used = connection.execute("PRAGMA page_count").fetchone()[0]
        connection.execute(pages.format(used))

    ledger._visit(fill, 10)
    long = Exchange([{"role": "user", "content": "x" * 200_000}])
    for number in range(4):
        ledger.record(decision(number), exchange=long)
    ledger.flush()
    assert ledger.dropped == 4
    assert ledger.left(DAY) == Decimal("0.4")
    ledger._visit(lambda connection: connection.execute(pages.format(1_000_000)), 10)
    ledger.record(decision(9), exchange=long)
    assert [row.id for row in ledger.decisions()] == ["9"]
    assert settle(ledger, "1", "0.5")


def test_a_file_damaged_while_it_is_open_refuses_and_counts(tmp_path: Path, ledger: Ledger) -> None:
    ledger._visit(lambda connection: connection.execute("DROP TABLE money"), 10)
    refusal = reserve(ledger, "1", "0.1")
    assert refusal is not None
    assert refusal.budget is None
    ledger.record(decision(1))
    ledger.flush()
    assert ledger.dropped == 1


def test_more_decisions_than_may_wait_are_dropped_and_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("router.ledger.writer.MOST_WAITING", 10)
    ledger = Ledger(tmp_path / "m.db")
    for number in range(5_000):
        ledger.record(decision(number))
    ledger.flush()
    assert ledger.dropped > 0
    assert len(list(ledger.decisions())) == 5_000 - ledger.dropped
    ledger.close()


def test_waiting_for_the_ledger_on_its_own_thread_is_refused_instead_of_hanging(ledger: Ledger) -> None:
    found: list[object] = []

    def inside(_: object) -> None:
        try:
            ledger.flush()
        except RuntimeError as error:
            found.append(error)

    ledger.reserve("1", "a", None, Decimal("0.1"), inside)
    ledger.flush()
    assert "own thread" in str(found[0])
