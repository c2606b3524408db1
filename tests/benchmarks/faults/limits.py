"""A cheap model with a rate limit beside a dear one: the limit is used up, and not run into."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from router import AsyncRouter, Price
from tests.benchmarks.faults.behaviour import Behaviour
from tests.benchmarks.faults.control import FaultServer
from tests.benchmarks.faults.load import at_rate
from tests.benchmarks.faults.making import hosted
from tests.benchmarks.faults.report import Settings, ask_at_least, ask_at_most, note, title

#: Requests per minute that the cheap one takes, and requests per second that come.
LIMIT, RATE, SECONDS = 600, 20.0, 75.0
CHEAP, DEAR = Price(input=0.1, output=0.4), Price(input=2.5, output=10.0)


def run(server: FaultServer, settings: Settings) -> None:
    """Prints how much of the limit is used, and the 429s; all cases run at the same time."""
    title(
        f"limits: a cheap model that takes {LIMIT} requests a minute beside a dear one; {RATE:g} requests/s for "
        f"{SECONDS:g} s"
    )
    most = min(LIMIT + RATE * max(SECONDS - 60.0, 0.0), RATE * SECONDS)
    usual = Behaviour(median=0.05, sigma=0.2)
    limited = Behaviour(median=0.05, sigma=0.2, limit=LIMIT)
    cases = {"one": (1, LIMIT), "both": (2, LIMIT), "undeclared": (1, 0), "quiet": (1, 0)}
    quiet = Behaviour(median=0.05, sigma=0.2, limit=LIMIT, tells_wait=False)
    server.behave(dear=usual, **{**dict.fromkeys(cases, limited), "quiet": quiet})
    with tempfile.TemporaryDirectory() as folder:
        children = {
            name: _start(server, name, processes, rpm, Path(folder) / f"{name}.db")
            for name, (processes, rpm) in cases.items()
        }
        told = {
            name: [json.loads(child.communicate(timeout=SECONDS + 60)[0]) for child in group]
            for name, group in children.items()
        }
    counts = server.counts()
    for name, what, asked in (
        ("one", "rpm declared", 0),
        ("both", "rpm declared, two processes, one ledger", 0),
        ("undeclared", "nothing declared", LIMIT * 0.01),
        ("quiet", "nothing declared, 429s without Retry-After", LIMIT * 0.05),
    ):
        seen = counts[name]
        ask_at_least(f"{what}: use of the limit", min(seen.answered / most, 1.0), 0.95, "{:.2f}")
        ask_at_most("  429s collected", seen.limited, asked, "{:g}")
        note(f"{told[name]}")


def _start(
    server: FaultServer, name: str, processes: int, rpm: int, ledger: Path
) -> list[subprocess.Popen[str]]:
    told = json.dumps([server.port, name, rpm, RATE / processes, str(ledger)])
    command = [sys.executable, "-m", __name__, told]
    return [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(processes)]


async def serve(port: int, name: str, rpm: int, rate: float, ledger: str) -> dict[str, Any]:
    """Sends requests at a rate; what came of them."""
    server = FaultServer.at(port)
    limit = {"rpm": rpm} if rpm else {}
    models = [hosted(server, name, price=CHEAP, **limit), hosted(server, "dear", price=DEAR)]
    async with AsyncRouter(models=models, ledger=ledger) as router:
        load = await at_rate(router, round(rate * SECONDS), rate)
    cheap = sum(outcome.model == name for outcome in load.outcomes)
    return {"cheap": cheap, "lost": load.lost, "p50": round(load.p(0.5), 3), "p99": round(load.p(0.99), 3)}


if __name__ == "__main__":
    print(json.dumps(asyncio.run(serve(*json.loads(sys.argv[1])))))
