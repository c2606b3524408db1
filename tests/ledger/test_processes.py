"""Several processes, forks, crashes and the end of the interpreter: real ones."""

from __future__ import annotations

import os
import signal
import sqlite3
import sys
from decimal import Decimal
from pathlib import Path

import pytest

from router.config import Budget
from router.ledger import Ledger, owners
from tests.ledger.making import Wall, reserve, run, settle, start, wait_until

BEGIN = """
import asyncio, os, sys, time, threading
from decimal import Decimal
from pathlib import Path
from router.config import Budget
from router.ledger import Ledger
from tests.ledger.making import decision, attempt
path = Path(sys.argv[1])
"""
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
posix = pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL")


def check(path: Path) -> None:
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()


def test_four_processes_together_never_go_beyond_the_budget(tmp_path: Path) -> None:
    path = tmp_path / "l.db"
    code = (
        BEGIN
        + """
ledger = Ledger(path, [Budget(usd=1.0)])
async def work(number):
    key = f"{number}"
    refusal = await ledger.areserve(key, "a", None, Decimal("0.01"))
    if refusal is not None:
        assert refusal.budget is not None, refusal  # processes wait for each other, they do not fail
        return 0
    assert await ledger.asettle(key, Decimal("0.007") if number % 2 else Decimal("0.01"))
    return number % 2 + 1
async def main():
    done = []
    for start in range(0, 120, 8):
        done += await asyncio.gather(*(work(start + n) for n in range(8)))
    print(done.count(1), done.count(2))
asyncio.run(main())
ledger.close()
"""
    )
    children = [start(code, path) for _ in range(4)]
    spent = Decimal(0)
    for child in children:
        out, err = child.communicate(timeout=100)
        assert child.returncode == 0, err
        dear, cheap = map(int, out.split())
        spent += dear * Decimal("0.01") + cheap * Decimal("0.007")
    ledger = Ledger(path, [Budget(usd=1.0)])
    assert ledger.spent() == {"": spent}
    assert Decimal("0.99") < spent <= 1
    assert ledger.left(Budget(usd=1.0)) == 1 - spent
    ledger.close()
    check(path)


@posix
def test_a_process_killed_in_the_middle_loses_no_settled_cost_and_holds_no_money(tmp_path: Path) -> None:
    path = tmp_path / "l.db"
    code = (
        BEGIN
        + """
ledger = Ledger(path, [Budget(usd=1000.0)])
def settled(key):
    def done(ok):
        if ok:
            os.write(1, b"%d\\n" % key)  # the caller has been told
    return done
ledger.reserve("for ever", "a", None, Decimal("900"), lambda refusal: None)
key = 0
while True:
    key += 1
    ledger.record(decision(key))
    ledger.reserve(str(key), "a", None, Decimal("0.02"), lambda refusal: None)
    ledger.settle(str(key), Decimal("0.01"), settled(key))
    if key % 50 == 0:
        time.sleep(0.001)
"""
    )
    child = start(code, path)
    assert child.stdout is not None
    told = 0
    while told < 300:
        told = int(child.stdout.readline())
    child.send_signal(signal.SIGKILL)
    rest, _ = child.communicate(timeout=30)
    told += len([line for line in rest.split("\n")[:-1] if line])
    budget = Budget(usd=1000.0)
    ledger = Ledger(path, [budget])
    spent = ledger.spent()[""]
    assert spent >= told * Decimal("0.01")
    assert ledger.left(budget) == 1000 - spent, "what the dead had reserved is free"
    assert reserve(ledger, "1", str(1000 - spent)) is None
    ledger.close()
    check(path)


@posix
def test_a_process_that_dies_while_another_works_frees_its_money_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("router.ledger.writer.BEAT", 0.05)
    path, budget = tmp_path / "l.db", Budget(usd=1.0)
    ledger = Ledger(path, [budget])
    child = start(
        BEGIN
        + """
ledger = Ledger(path, [Budget(usd=1.0)])
ledger.reserve("1", "a", None, Decimal("0.9"), lambda refusal: print(refusal, flush=True))
time.sleep(60)
""",
        path,
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "None\n"
    assert reserve(ledger, "1", "0.9") is not None, "while it lives, its money is its own"
    child.kill()
    child.communicate(timeout=30)
    wait_until(lambda: ledger.left(budget) == 1)
    assert reserve(ledger, "2", "0.9") is None
    ledger.close()


def test_a_process_that_cannot_be_looked_up_counts_as_dead_when_it_is_silent_for_long() -> None:
    elsewhere = owners.Owner("x", "another machine", 1, None)
    assert not elsewhere.dead(beat=1_000.0, now=1_000.0 + owners.EXPIRY - 1)
    assert elsewhere.dead(beat=1_000.0, now=1_000.0 + owners.EXPIRY + 1)
    here = owners.Owner.here("me")
    assert not here.dead(beat=0.0, now=1e9), "it is looked up, and lives"


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_a_process_id_that_was_given_again_is_not_the_process_that_reserved() -> None:
    here = owners.Owner.here("me")
    assert owners.Owner("before", here.place, here.pid, "1").dead(beat=1e9, now=1e9)


def test_what_is_queued_is_written_when_the_interpreter_ends(tmp_path: Path) -> None:
    code = (
        BEGIN
        + """
ledger = Ledger(path, [Budget(usd=1.0)])
for number in range(3000):
    ledger.record(decision(number))
ledger.reserve("1", "a", None, Decimal("0.5"), lambda refusal: None)
ledger.settle("1", Decimal("0.25"))
"""
    )
    run(code, tmp_path / "l.db")
    ledger = Ledger(tmp_path / "l.db")
    assert len(list(ledger.decisions())) == 3_000
    assert ledger.spent() == {"": Decimal("0.25")}
    ledger.close()


def test_what_is_recorded_while_the_interpreter_ends_is_written_too(tmp_path: Path) -> None:
    code = (
        BEGIN
        + """
import atexit
ledger = Ledger(path)
atexit.register(lambda: ledger.record(decision("last words")))
"""
    )
    run(code, tmp_path / "l.db")
    ledger = Ledger(tmp_path / "l.db")
    assert [row.id for row in ledger.decisions()] == ["last words"]
    ledger.close()


@needs_fork
@pytest.mark.parametrize("leave", ["sys.exit(0)", "ledger.flush(10); os._exit(0)"])
def test_a_forked_child_goes_on_with_its_own_connection_and_writes_nothing_twice(
    tmp_path: Path, leave: str
) -> None:
    code = (
        BEGIN
        + f"""
budget = Budget(usd=1.0)
ledger = Ledger(path, [budget])
for number in range(200):
    ledger.record(decision(f"parent {{number}}"))
asyncio.run(ledger.areserve("before", "a", None, Decimal("0.3")))
pid = os.fork()
if pid == 0:
    ledger.record(decision("child"))
    asyncio.run(ledger.asettle("before", Decimal("0.3")))  # not the child's to settle
    assert asyncio.run(ledger.areserve("1", "a", None, Decimal("0.8"))) is not None
    assert asyncio.run(ledger.areserve("2", "a", None, Decimal("0.5"))) is None
    assert asyncio.run(ledger.asettle("2", Decimal("0.5")))
    {leave}
_, status = os.waitpid(pid, 0)
assert status == 0, status
assert asyncio.run(ledger.asettle("before", Decimal("0.1")))
ledger.record(decision("parent afterwards"))
assert ledger.close(10)
"""
    )
    run(code, tmp_path / "l.db")
    check(tmp_path / "l.db")
    ledger = Ledger(tmp_path / "l.db")
    names = [row.id for row in ledger.decisions()]
    assert sorted(names) == sorted([f"parent {n}" for n in range(200)] + ["child", "parent afterwards"])
    assert ledger.spent() == {"": Decimal("0.6")}
    ledger.close()


@needs_fork
def test_a_child_of_multiprocessing_writes_what_it_queued_before_it_ends(tmp_path: Path) -> None:
    code = (
        BEGIN
        + """
import multiprocessing
def child():
    for number in range(500):
        ledger.record(decision(number))
ledger = Ledger(path)
ledger.flush()
process = multiprocessing.get_context("fork").Process(target=child)
process.start()
process.join()
assert process.exitcode == 0
"""
    )
    run(code, tmp_path / "l.db")
    ledger = Ledger(tmp_path / "l.db")
    assert len(list(ledger.decisions())) == 500
    ledger.close()


@needs_fork
def test_a_child_forked_while_other_threads_work_does_not_hang(tmp_path: Path) -> None:
    code = (
        BEGIN
        + """
ledger = Ledger(path, [Budget(usd=1000.0)])
stop = False
def busy(worker):
    number = 0
    while not stop:
        number += 1
        key = f"{worker}:{number}"
        ledger.record(decision(key))
        ledger.reserve(key, "a", None, Decimal("0.01"), lambda refusal: None)
        ledger.settle(key, Decimal("0.001"))
        time.sleep(0.0005)
threads = [threading.Thread(target=busy, args=(worker,)) for worker in range(3)]
for thread in threads:
    thread.start()
for turn in range(10):
    pid = os.fork()
    if pid == 0:
        assert asyncio.run(ledger.areserve("c", "a", None, Decimal("1"))) is None
        assert asyncio.run(ledger.asettle("c", Decimal("1")))
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    assert status == 0, status
stop = True
for thread in threads:
    thread.join()
assert ledger.close(10)
"""
    )
    run(code, tmp_path / "l.db")
    check(tmp_path / "l.db")
    ledger = Ledger(tmp_path / "l.db")
    assert ledger.spent()[""] > 10
    ledger.close()


def test_a_process_that_settles_after_being_taken_for_dead_still_books_its_cost(tmp_path: Path) -> None:
    path, budget = tmp_path / "l.db", Budget(usd=1.0)
    ledger = Ledger(path, [budget])
    assert reserve(ledger, "1", "0.5") is None
    other = sqlite3.connect(path)
    with other:
        owners.release(other, other.execute("SELECT owner FROM owners").fetchone()[0])
    other.close()
    assert settle(ledger, "1", "0.4")
    assert ledger.spent() == {"": Decimal("0.4")}
    assert ledger.left(budget) == Decimal("0.6")
    ledger.close()


def test_who_was_taken_for_dead_sets_its_money_aside_again_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path, budget = tmp_path / "l.db", Budget(usd=1.0)
    ledger, other = Ledger(path, [budget]), Ledger(path, [budget])
    assert reserve(ledger, "1", "0.5") is None
    connection = sqlite3.connect(path)
    with connection:
        owners.release(connection, connection.execute("SELECT owner FROM owners").fetchone()[0])
    connection.close()
    assert reserve(ledger, "2", "0.1") is None, "a sign of life"
    assert "0.5 USD are set aside again" in caplog.text
    assert reserve(other, "1", "0.5") is not None, "it counts again, before any of it is settled"
    assert settle(ledger, "1", "0.4")
    assert settle(ledger, "2", None)
    assert reserve(other, "1", "0.6") is None
    assert reserve(other, "2", "0.01") is not None
    ledger.close()
    other.close()


def test_a_process_that_was_itself_asleep_does_not_bury_the_others_by_their_silence(tmp_path: Path) -> None:
    """A machine that slept: whoever wakes first finds all the others silent for hours."""
    wall, budget = Wall(), Budget(usd=1.0)
    ledger = Ledger(tmp_path / "l.db", [budget], wall=wall)
    assert reserve(ledger, "1", "0.1") is None
    elsewhere = owners.Owner("x", "a machine that cannot be looked into", 1, None)
    connection = sqlite3.connect(tmp_path / "l.db", isolation_level=None)
    elsewhere.sign(connection, wall.at)
    clerk = ledger._desk.writer()._clerk

    def names() -> set[str]:
        return {row[0] for row in connection.execute("SELECT owner FROM owners")}

    clerk_upkeep = clerk.upkeep
    ledger._visit(lambda _: clerk_upkeep(), 10)
    wall.at += 2 * owners.EXPIRY  # both slept
    ledger._visit(lambda _: clerk_upkeep(), 10)
    assert "x" in names()
    wall.at += owners.BEAT
    ledger._visit(lambda _: clerk_upkeep(), 10)
    assert "x" not in names(), "it had the time to say that it lives"
    connection.close()
    ledger.close()


@posix
def test_a_router_killed_in_the_midst_of_a_thousand_requests_has_booked_what_its_app_was_told(
    tmp_path: Path,
) -> None:
    path, budget = tmp_path / "l.db", Budget(usd=1000.0)
    child = start(
        """
        import asyncio, os, sys
        from router import AsyncRouter, Budget, Price
        from router.testing import ScriptedModel, Step
        step = Step(text="x", ttft=0.02, prompt_tokens=10, completion_tokens=90)
        model = ScriptedModel("m", script=[step], price=Price(input=1000, output=1000))

        async def main():
            router = AsyncRouter([model], budget=Budget(usd=1000.0), ledger=sys.argv[1])
            left = iter(range(1000))

            async def work(stream):
                for _ in left:
                    asked = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 100}
                    answer = await router.chat.completions.create(**asked, stream=stream)
                    if stream:
                        async for _ in answer:
                            pass
                    os.write(1, f"{answer.routing.cost}\\n".encode())

            await asyncio.gather(*(work(n % 2 == 0) for n in range(32)))
            await asyncio.sleep(60)

        asyncio.run(main())
        """,
        path,
    )
    assert child.stdout is not None
    told = [Decimal(child.stdout.readline()) for _ in range(400)]
    child.send_signal(signal.SIGKILL)
    rest, _ = child.communicate(timeout=30)
    told += [Decimal(line) for line in rest.split("\n")[:-1]]
    assert len(told) < 1000, "it was killed in the midst of them"
    ledger = Ledger(path, [budget])
    spent = sum(ledger.spent().values(), Decimal(0))
    assert spent >= sum(told)
    assert ledger.left(budget) == 1000 - spent, "what was set aside for the others is free"
    ledger.close()
    check(path)
