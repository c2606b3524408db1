"""A process is killed in the midst of its requests: what it had settled is in the ledger, and nothing is stuck."""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import sys
import tempfile
import time
from decimal import Decimal
from pathlib import Path

from router import AsyncRouter, Budget
from router.ledger import Ledger
from tests.benchmarks.faults.behaviour import Behaviour
from tests.benchmarks.faults.control import FaultServer
from tests.benchmarks.faults.load import MESSAGES
from tests.benchmarks.faults.making import PRICE, hosted
from tests.benchmarks.faults.report import Settings, ask_at_most, figure, note, title

REQUESTS, AT_ONCE, RATE = 1_000, 64, 250.0
#: The process is killed when the server has answered this share of the requests.
SHARES = (0.25, 0.5, 0.75)
#: At this one, another process has the ledger open all the time.
WITH_SURVIVOR = 0.5
BUDGET = Budget(usd=1000.0, period="total")
#: Seconds that a new process may take until it has freed what a dead one had reserved.
FREED_WITHIN = 15.0


def run(server: FaultServer, settings: Settings) -> None:
    """Prints what is missing from the ledger after each kill, and what is stuck in it."""
    count = settings.count(REQUESTS)
    title(f"crash: kill -9 in the midst of {count} requests ({AT_ONCE} at once), file ledger, budget")
    server.behave(a=Behaviour(median=0.2, sigma=0.3, price_in=PRICE.input, price_out=PRICE.output))
    for share in SHARES:
        server.reset()
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "ledger.db"
            survivor = Ledger(path, [BUDGET]) if share == WITH_SURVIVOR else None
            settled = _killed(server, path, count, round(count * share))
            server.wait_until(lambda one: one.in_flight() == 0, 2.0)
            what = f"killed after {share:.0%}"
            if survivor is not None:
                what += ", another process lives"
            _inspect(server, path, survivor, settled, what)


def _killed(server: FaultServer, ledger: Path, count: int, after: int) -> list[Decimal]:
    """Starts a process, kills it, and gives the costs of the answers that its app had in hand."""
    command = [sys.executable, "-m", __name__, str(server.port), str(ledger), str(count)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        server.wait_until(lambda one: one.counts()["a"].answered >= after, 30.0)
        child.kill()
        assert child.stdout is not None
        lines = child.stdout.read().split("\n")
    return [Decimal(line) for line in lines[:-1]]  # the last one may be cut


def _inspect(
    server: FaultServer, path: Path, survivor: Ledger | None, settled: list[Decimal], what: str
) -> None:
    connection = sqlite3.connect(path)
    sound = connection.execute("PRAGMA integrity_check").fetchone()[0]
    stuck = connection.execute("SELECT count(*) FROM money WHERE owner <> '' AND usd <> '0'").fetchone()[0]
    connection.close()
    figure(f"{what}: the file is", sound, "ok", reached=sound == "ok")
    begun = time.monotonic()
    ledger = survivor or Ledger(path, [BUDGET])
    spent = sum(ledger.spent().values(), Decimal(0))
    whole = Decimal(str(BUDGET.usd))
    while (held := whole - spent - ledger.left(BUDGET)) and time.monotonic() < begun + FREED_WITHIN:
        time.sleep(0.02)
    took = time.monotonic() - begun
    recorded = sum(1 for _ in ledger.decisions())
    ledger.close()
    counts = server.counts()["a"]
    missing = sum(settled, Decimal(0)) - spent
    ask_at_most("  settled and not in the ledger, USD", max(float(missing), 0.0), 0.0, "{:g}")
    ask_at_most(f"  still reserved after {FREED_WITHIN:g} s, USD", float(held), 0.0, "{:g}")
    note(
        f"{len(settled)} answers were in the app's hands, {counts.answered} were given by the server, of whose "
        f"bill {float(spent) / counts.usd:.1%} is in the ledger; {recorded} decisions recorded; "
        f"{stuck} sums reserved by the dead, freed within {took:.2f} s"
    )


async def serve(server: FaultServer, ledger: Path, count: int) -> None:
    """Sends requests until it is killed, and prints each cost when `create` has returned."""
    left = iter(range(count))
    async with AsyncRouter(models=[hosted(server, "a")], budget=BUDGET, ledger=ledger) as router:

        async def work() -> None:
            for _ in left:
                answer = await router.chat.completions.create(messages=MESSAGES, max_tokens=200)
                print(answer.routing.cost, flush=True)

        await asyncio.gather(*(work() for _ in range(AT_ONCE)))
        await asyncio.sleep(60.0)


if __name__ == "__main__":
    asyncio.run(serve(FaultServer.at(int(sys.argv[1])), Path(sys.argv[2]), int(sys.argv[3])))
