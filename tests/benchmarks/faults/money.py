"""Far more requests at once than a budget has money for: it is used, and not overrun."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from router import AsyncRouter, Budget, Price, RoutingOptions
from tests.benchmarks.faults.behaviour import Behaviour
from tests.benchmarks.faults.control import FaultServer
from tests.benchmarks.faults.load import Load, ask
from tests.benchmarks.faults.making import hosted
from tests.benchmarks.faults.report import Settings, ask_at_least, ask_at_most, note, title

REQUESTS, PAID_FOR, PROCESSES = 500, 50, 4
MAX_TOKENS, DEADLINE = 200, 6.0
#: The prompt costs next to nothing, so that the budget is for so many answers of full length.
PRICE = Price(input=0.01, output=10.0)
BUDGET = PAID_FOR * MAX_TOKENS * PRICE.output / 1e6


def run(server: FaultServer, settings: Settings) -> None:
    """Prints what the server billed, for one process and for several, for answers and for streams."""
    title(
        f"money: {REQUESTS} requests at once on a budget for {PAID_FOR} (max_tokens {MAX_TOKENS}, answers "
        f"of 80 to 100 % of it, deadline {DEADLINE:g} s)"
    )
    usual = Behaviour(median=0.3, sigma=0.2, price_in=PRICE.input, price_out=PRICE.output)
    server.behave(a=usual)
    for what, processes, stream in (
        ("one process", 1, False),
        ("one process, streams", 1, True),
        (f"{PROCESSES} processes", PROCESSES, False),
    ):
        server.reset()
        with tempfile.TemporaryDirectory() as folder:
            ledger = Path(folder) / "ledger.db"
            if processes == 1:
                told = _told(asyncio.run(spend(server, ledger, REQUESTS, stream=stream)))
            else:
                told = _in_processes(server, ledger, processes)
        server.wait_until(lambda one: one.in_flight() == 0, 2.0)
        counts = server.counts()["a"]
        note(
            f"{what}: {counts.answered} answered, {counts.left} left at the server; {told['ok']} told so; "
            f"errors: {told['errors']}; the last was over after {told['seconds']:.1f} s"
        )
        ask_at_most(f"{what}: billed / budget", counts.usd / BUDGET, 1.02, "{:.3f}")
        ask_at_least("  billed / budget", counts.usd / BUDGET, 0.80, "{:.3f}")
        # They wait until their deadline: as long as one fits into what is left, none may be refused.
        fit = int((BUDGET - counts.usd) / (BUDGET / PAID_FOR * 1.01))
        ask_at_most("  refused though they fit into what is left", fit, 0, "{:g}")


async def spend(server: FaultServer, ledger: Path, count: int, *, stream: bool) -> Load:
    """Sends all requests at once."""
    model = hosted(server, "a", price=PRICE)
    routing = RoutingOptions(deadline=DEADLINE)
    load = Load()
    loop = asyncio.get_running_loop()
    async with AsyncRouter(models=[model], budget=Budget(usd=BUDGET), ledger=ledger) as router:
        begun = loop.time()
        asked = (
            ask(router, begun, stream=stream, max_tokens=MAX_TOKENS, routing=routing) for _ in range(count)
        )
        load.outcomes = list(await asyncio.gather(*asked))
        load.seconds = loop.time() - begun
    return load


def _told(load: Load) -> dict[str, object]:
    answered = sum(outcome.ok for outcome in load.outcomes)
    return {"ok": answered, "errors": load.errors, "seconds": load.seconds}


def _in_processes(server: FaultServer, ledger: Path, processes: int) -> dict[str, object]:
    """The same from several processes that share the ledger."""
    command = [sys.executable, "-m", __name__, str(server.port), str(ledger), str(REQUESTS // processes)]
    children = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(processes)]
    told = [json.loads(child.communicate(timeout=60)[0]) for child in children]
    return {
        "ok": sum(one["ok"] for one in told),
        "errors": "; ".join(sorted({one["errors"] for one in told})),
        "seconds": max(one["seconds"] for one in told),
    }


def _child(port: str, ledger: str, count: str) -> None:
    load = asyncio.run(spend(FaultServer.at(int(port)), Path(ledger), int(count), stream=False))
    print(json.dumps(_told(load)))


if __name__ == "__main__":
    _child(*sys.argv[1:])
