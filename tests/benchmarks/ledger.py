"""CPU of the ledger, beside bare sqlite3 in the same run: `python -m tests.benchmarks.ledger`.

CPU is that of the whole process (caller, event loop and writer thread), in microseconds per item; each
figure is the median of several rounds on a file. The bare baseline inserts the same, already encoded rows
from one thread; for money it is one `BEGIN IMMEDIATE`, an upsert and a commit per operation.
"""

from __future__ import annotations

import asyncio
import functools
import statistics
import tempfile
import time
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

from router.config import Budget
from router.decision import Attempt, Candidate, Decision, Features
from router.ledger import Ledger
from router.ledger.rows import INSERT_ATTEMPT, INSERT_DECISION, attempt_rows, decision_row
from router.ledger.schema import open_file

ROUNDS = 7
DECISIONS = 2_000
PAIRS = 640


def decision(number: int) -> Decision:
    """A usual one: two candidates, one attempt."""
    attempt = Attempt(
        model="qwen3-4b",
        outcome="succeeded",
        ttft=0.213,
        duration=1.907,
        cost=Decimal("0.000123"),
        cost_source="usage",
        prompt_tokens=212,
        completion_tokens=64,
        cached_tokens=0,
    )
    candidates = tuple(
        Candidate(
            model=model,
            cost=0.000123456 * place,
            ttft=0.2134,
            latency=1.9123,
            quality=0.62,
            utility=-0.00203,
            rejected_because=None if place < 2 else "price: unknown",
        )
        for place, model in enumerate(("qwen3-4b", "kimi-k2"), start=1)
    )
    return Decision(
        id=f"{number:032x}",
        model="qwen3-4b",
        attempts=(attempt,),
        cost=attempt.cost,
        features=Features(
            prompt_tokens=212, expected_output_tokens=180.5, needs=frozenset({"tools"}), task="support"
        ),
        reason="qwen3-4b: the lowest cost + 0.001 USD/s x latency",
        at=time.time(),
        tags={"tenant": "a"},
        _ranking=candidates,
    )


def median(measure: Callable[[Path], float]) -> float:
    """Microseconds per item, the median of the rounds, each in a folder of its own."""
    found = []
    for _ in range(ROUNDS):
        with tempfile.TemporaryDirectory() as folder:
            found.append(measure(Path(folder) / "ledger.db") * 1e6)
    return statistics.median(found)


def recorded(path: Path) -> float:
    """All of `record`: queueing, encoding, inserting, committing."""
    decisions = [decision(number) for number in range(DECISIONS)]
    ledger = Ledger(path, [Budget(usd=1e6)])
    begin = time.process_time()
    for one in decisions:
        ledger.record(one)
    ledger.flush()
    spent = time.process_time() - begin
    ledger.close()
    assert ledger.dropped == 0
    return spent / DECISIONS


def inserted(path: Path) -> float:
    """The same rows, encoded before, in the same transactions, by bare sqlite3."""
    rows = [
        (decision_row(n, one), attempt_rows(n, one))
        for n, one in enumerate(map(decision, range(DECISIONS)), 1)
    ]
    connection = open_file(path)
    begin = time.process_time()
    for start in range(0, DECISIONS, 256):
        connection.execute("BEGIN IMMEDIATE")
        for columns, attempts in rows[start : start + 256]:
            connection.execute(INSERT_DECISION, columns)
            connection.executemany(INSERT_ATTEMPT, attempts)
        connection.execute("COMMIT")
    spent = time.process_time() - begin
    connection.close()
    return spent / DECISIONS


def booked(path: Path, at_once: int) -> float:
    """Reserve and settle, awaited one after the other, by so many tasks at once."""

    async def work(ledger: Ledger, worker: int) -> None:
        for number in range(PAIRS // at_once):
            key = f"{worker}:{number}"
            assert await ledger.areserve(key, "kimi-k2", "support", Decimal("0.001")) is None
            assert await ledger.asettle(key, Decimal("0.0004"))

    async def run() -> float:
        ledger = Ledger(path, [Budget(usd=1e6), Budget(usd=1e6, period="month", task="support")])
        await ledger.areserve("first", "kimi-k2", "support", Decimal("0.001"))
        begin = time.process_time()
        await asyncio.gather(*(work(ledger, worker) for worker in range(at_once)))
        spent = time.process_time() - begin
        ledger.close()
        return spent / PAIRS

    return asyncio.run(run())


def upserted(path: Path) -> float:
    """Two bare transactions of one upsert each."""
    connection = open_file(path)
    begin = time.process_time()
    for number in range(PAIRS * 2):
        connection.execute("BEGIN IMMEDIATE")
        connection.execute(
            "INSERT OR REPLACE INTO money (hour, owner, model, task, usd, seq) VALUES (1, '', 'kimi-k2', 'support', ?, ?)",
            (str(number), number),
        )
        connection.execute("COMMIT")
    spent = time.process_time() - begin
    connection.close()
    return spent / PAIRS


def woken() -> float:
    """One `call_soon_threadsafe` from another thread, with the wake-up of the loop."""

    async def run() -> float:
        loop, times = asyncio.get_running_loop(), 2_000

        def wake() -> None:
            for _ in range(times):
                done = asyncio.run_coroutine_threadsafe(asyncio.sleep(0), loop)
                done.result()

        begin = time.process_time()
        await asyncio.to_thread(wake)
        return (time.process_time() - begin) / times

    return asyncio.run(run()) * 1e6


def main() -> None:
    """Prints the figures."""
    bare_row, row = median(inserted), median(recorded)
    print(
        f"record a decision (2 candidates, 1 attempt)  {row:7.1f} µs CPU; bare sqlite3 {bare_row:.1f} ({row / bare_row:.2f}x)"
    )
    bare_pair = median(upserted)
    for at_once in (1, 32):
        pair = median(functools.partial(booked, at_once=at_once))
        print(
            f"reserve + settle, {at_once:2} at once               {pair:7.1f} µs CPU; bare sqlite3 {bare_pair:.1f} ({pair / bare_pair:.2f}x)"
        )
    print(f"a round trip between a thread and a loop     {woken():7.1f} µs CPU")


if __name__ == "__main__":
    main()
