"""Money asked for by many tasks, loops and threads at once."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path

import pytest

from router.config import Budget
from router.ledger import Ledger
from tests.ledger.making import NOON, Wall, reserve, wait_until

DAY = Budget(usd=1.0)


@pytest.fixture
def ledger(path: Path | None, wall: Wall) -> Iterator[Ledger]:
    ledger = Ledger(path, [DAY], wall=wall)
    yield ledger
    assert ledger.close()


async def test_awaiting_gives_the_same_answers(ledger: Ledger) -> None:
    assert await ledger.areserve("1", "a", None, Decimal("0.7")) is None
    refusal = await ledger.areserve("2", "a", None, Decimal("0.7"))
    assert refusal is not None
    assert refusal.budget == DAY
    assert await ledger.asettle("1", Decimal("0.1"))
    assert ledger.left(DAY) == Decimal("0.9")


def test_one_ledger_serves_several_event_loops_of_either_kind(ledger: Ledger) -> None:
    uvloop = pytest.importorskip("uvloop")

    async def work(worker: int) -> int:
        answers = await asyncio.gather(
            *(ledger.areserve(f"{worker}:{n}", "a", None, Decimal("0.01")) for n in range(40))
        )
        return sum(answer is None for answer in answers)

    def loop(worker: int) -> int:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop if worker % 2 else None) as runner:
            return runner.run(work(worker))

    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(loop, range(4))) == 100


async def test_five_hundred_at_once_on_a_budget_for_fifty_admit_fifty(ledger: Ledger) -> None:
    answers = await asyncio.gather(*(ledger.areserve(str(n), "a", None, Decimal("0.02")) for n in range(500)))
    assert sum(answer is None for answer in answers) == 50
    assert ledger.left(DAY) == 0


async def test_cancelling_the_one_who_waits_leaves_nothing_reserved(ledger: Ledger) -> None:
    waiting = [asyncio.ensure_future(ledger.areserve(str(n), "a", None, Decimal("0.3"))) for n in range(3)]
    await asyncio.sleep(0)
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    ledger.flush()
    assert ledger.left(DAY) == 1


def test_a_loop_that_is_closed_before_the_answer_leaves_nothing_reserved(path: Path | None) -> None:
    entered, go_on = threading.Event(), threading.Event()

    def slow_clock() -> float:
        if threading.current_thread().name == "router-ledger" and entered.is_set():
            go_on.wait(20)
        return NOON

    ledger = Ledger(path, [DAY], wall=slow_clock)
    ledger.flush()
    entered.set()
    loop = asyncio.new_event_loop()
    task = loop.create_task(ledger.areserve("1", "a", None, Decimal("0.7")))
    loop.run_until_complete(asyncio.sleep(0))
    task._log_destroy_pending = False  # type: ignore[attr-defined]  # this is the accident under test
    loop.close()
    go_on.set()
    ledger.flush()
    wait_until(lambda: ledger.left(DAY) == 1)
    task.get_coro().close()  # so that nothing is left over
    ledger.close()


def test_threads_together_never_reserve_more_than_there_is(ledger: Ledger) -> None:
    def work(worker: int) -> int:
        return sum(reserve(ledger, f"{worker}:{n}", "0.013") is None for n in range(40))

    with ThreadPoolExecutor(8) as pool:
        granted = sum(pool.map(work, range(8)))
    assert granted == 76
    assert ledger.left(DAY) == Decimal("0.012")
