"""Limits that several processes share through the ledger's file."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sqlite3
import threading
import time
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.ledger import Ledger
from router.ledger.rates import MINUTE, Rates
from router.ledger.schema import open_memory
from router.limits import Ask, Limiter, Limits

SPAWN = multiprocessing.get_context("spawn")


def take(ledger: Ledger, ask: Ask) -> tuple[int, float]:
    """Asks, and waits for the answer."""
    assert ledger.limits is not None
    answered, came = list[tuple[int, float]](), threading.Event()

    def done(granted: int, pause: float) -> None:
        answered.append((granted, pause))
        came.set()

    ledger.limits.take(ask, done)
    assert came.wait(10)
    return answered[0]


def ask_for(requests: int, *, tokens: int = 1, **limits: int) -> Ask:
    declared = Limits(limits.get("rpm"), limits.get("tpm"), limits.get("places"))
    return Ask("m", declared, (tokens,) * requests, 1.0)


class TestRates:
    @settings(max_examples=60, deadline=None)
    @given(
        rpm=st.integers(1, 6),
        steps=st.lists(st.tuples(st.floats(0, 25), st.integers(1, 4), st.booleans()), max_size=40),
    )
    def test_no_minute_holds_more_than_the_limit_whoever_sends(
        self, rpm: int, steps: list[tuple[float, int, bool]]
    ) -> None:
        connection = open_memory()
        writers = Rates(connection, "one"), Rates(connection, "two")
        at, sent = 1_000_000.0, list[float]()
        for step, wanted, which in steps:
            at += step
            granted, pause = writers[which].take(ask_for(wanted, rpm=rpm), at)
            sent += [at] * granted
            assert (pause > 0) == (granted < wanted)
            if granted < wanted:
                assert writers[not which].take(ask_for(1, rpm=rpm), at)[0] == 0, "refused without need"
                assert pause <= MINUTE + 1
        for first in sent:
            assert sum(first <= other < first + MINUTE for other in sent) <= rpm
        connection.close()

    def test_tokens_that_were_not_needed_are_free_for_others_and_only_in_their_own_minute(self) -> None:
        rates = Rates(open_memory(), "one")
        assert rates.take(ask_for(1, tokens=100, tpm=100), 1000.0) == (1, 0.0)
        assert rates.take(ask_for(1, tokens=50, tpm=100), 1010.0)[0] == 0
        rates.correct("m", 0, -60, 1000.0)
        assert rates.take(ask_for(1, tokens=50, tpm=100), 1010.0)[0] == 1
        assert rates.take(ask_for(1, tokens=51, tpm=100), 1061.5)[0] == 0, (
            "the correction left with its request"
        )

    def test_a_request_larger_than_a_minute_goes_when_the_minute_is_empty(self) -> None:
        rates = Rates(open_memory(), "one")
        assert rates.take(ask_for(1, tokens=500, tpm=100), 1000.0)[0] == 1
        granted, pause = rates.take(ask_for(1, tokens=500, tpm=100), 1001.0)
        assert granted == 0
        assert rates.take(ask_for(1, tokens=500, tpm=100), 1001.0 + pause)[0] == 1

    def test_a_transaction_that_failed_leaves_no_place_taken(self) -> None:
        rates = Rates(open_memory(), "one")
        assert rates.take(ask_for(2, places=2), 1000.0)[0] == 2
        rates.forget()
        rates._connection.execute("DELETE FROM places")
        assert rates.take(ask_for(2, places=2), 1000.0)[0] == 2
        rates.confirm()
        rates.forget()
        assert rates.take(ask_for(1, places=2), 1000.0)[0] == 0


class TestFile:
    def test_two_writers_share_places_and_the_end_of_one_frees_its_own(self, tmp_path: Path) -> None:
        one, two = Ledger(tmp_path / "l.db"), Ledger(tmp_path / "l.db")
        assert take(one, ask_for(3, places=4)) == (3, 0.0)
        granted, pause = take(two, ask_for(3, places=4))
        assert granted == 1
        assert pause > 0
        one.close()
        assert take(two, ask_for(3, places=4)) == (3, 0.0)
        two.close()

    def test_a_ledger_in_memory_shares_nothing(self) -> None:
        assert Ledger(None).limits is None

    def test_where_the_file_fails_each_process_goes_by_its_own_count(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        ledger = Ledger(tmp_path / "l.db")

        def fail(*_: object) -> None:
            raise sqlite3.OperationalError("disk I/O error")

        monkeypatch.setattr(Rates, "take", fail)
        assert take(ledger, ask_for(3, places=1)) == (3, 0.0)
        monkeypatch.undo()
        assert take(ledger, ask_for(1, places=3))[0] == 0, "what went meanwhile is under way"
        ledger.close()

    def test_a_closed_ledger_stands_in_nobodys_way(self, tmp_path: Path) -> None:
        ledger = Ledger(tmp_path / "l.db")
        ledger.close()
        assert take(ledger, ask_for(3, places=1)) == (3, 0.0)


def _hold(path: Path, held: object) -> None:
    ledger = Ledger(path)
    assert take(ledger, ask_for(2, places=2)) == (2, 0.0)
    held.set()  # type: ignore[attr-defined]  # an event of multiprocessing
    time.sleep(60)


def test_the_places_of_a_process_that_was_killed_are_free_again(tmp_path: Path) -> None:
    held = SPAWN.Event()
    child = SPAWN.Process(target=_hold, args=(tmp_path / "l.db", held))
    child.start()
    assert held.wait(30)
    ledger = Ledger(tmp_path / "l.db")
    assert take(ledger, ask_for(1, places=2))[0] == 0
    os.kill(child.pid or 0, signal.SIGKILL)
    child.join(10)
    until = time.monotonic() + 20
    while take(ledger, ask_for(1, places=2))[0] == 0 and time.monotonic() < until:
        time.sleep(0.05)
    assert time.monotonic() < until
    ledger.close()


def _ring(bell: threading.Event) -> bool:
    bell.set()
    return True


def test_the_limiters_of_two_ledgers_never_have_more_under_way_than_is_allowed(tmp_path: Path) -> None:
    limits = Limits(None, None, 3)
    ledgers = [Ledger(tmp_path / "l.db") for _ in range(2)]
    limiters = [Limiter(limits, model="m", store=ledger.limits) for ledger in ledgers]
    lock, under_way, most, done = threading.Lock(), 0, 0, 0

    def work(limiter: Limiter) -> None:
        nonlocal under_way, most, done
        for _ in range(10):
            rung = threading.Event()
            seat = limiter.join(1, time.monotonic(), 0.01)
            while not seat.granted:
                at = limiter.claim(seat, time.monotonic(), partial(_ring, rung))
                if not seat.granted:
                    rung.wait(min(max(at - time.monotonic(), 0.001), 10.0))
                    rung.clear()
            with lock:
                under_way += 1
                most = max(most, under_way)
            time.sleep(0.002)
            with lock:
                under_way -= 1
                done += 1
            limiter.leave(seat, time.monotonic(), sent=True)

    threads = [threading.Thread(target=work, args=(limiters[place % 2],)) for place in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert done == 80
    assert most == 3
    for ledger in ledgers:
        ledger.close()
