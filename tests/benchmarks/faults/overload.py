"""Twice as many requests as the backends can take: most of what they can do must still be of use."""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass
from typing import Any

from router import AsyncRouter, RoutingOptions
from router.models import HostedModel
from tests.benchmarks.faults.behaviour import Behaviour
from tests.benchmarks.faults.control import FaultServer
from tests.benchmarks.faults.load import Load, at_rate, percentile
from tests.benchmarks.faults.making import hosted
from tests.benchmarks.faults.report import Settings, ask_at_least, ask_at_most, note, title

#: Answers worked on at once, seconds of one (median), how they scatter.
SEATS, MEDIAN, SIGMA = 8, 0.1, 0.2
#: Answers per second that one model can give.
CAPACITY = SEATS / (MEDIAN * math.exp(SIGMA**2 / 2))
DEADLINE = 1.0
#: Seconds at twice the capacity, and at half of it afterwards.
OVER, AFTER = 6.0, 5.0
RECOVERED_WITHIN = 3.0
#: A request after the drop is well if it is answered within so many times the usual.
WELL_TIMES = 4.0


@dataclass(frozen=True, slots=True)
class Case:
    """Backends, and what the router was told of them.

    Attributes:
        what: For people.
        models: How many.
        declared: Whether `max_concurrency` says what each can take.
        queue: Requests that each backend lets wait before it says 503.
        tells_wait: Whether these say when to come back (in a second).
    """

    what: str
    models: int
    declared: bool
    queue: int
    tells_wait: bool = True


CASES = (
    Case("max_concurrency declared", 1, declared=True, queue=1_000_000),
    Case("two models, declared", 2, declared=True, queue=1_000_000),
    Case("nothing declared, backend queues without end", 1, declared=False, queue=1_000_000),
    Case("nothing declared, 503 with Retry-After: 1", 1, declared=False, queue=16),
    Case("nothing declared, 503", 1, declared=False, queue=16, tells_wait=False),
)


def run(server: FaultServer, settings: Settings) -> None:
    """Prints goodput and recovery of each case."""
    over = OVER * settings.scale
    title(
        f"overload: {over:g} s at twice the capacity ({CAPACITY:.0f} answers/s and model), deadline "
        f"{DEADLINE:g} s, then half of it"
    )
    for case in CASES:
        asyncio.run(_overload(server, case, over))


def _models(server: FaultServer, case: Case) -> list[HostedModel]:
    options: dict[str, Any] = {"max_concurrency": SEATS} if case.declared else {}
    return [hosted(server, name, **options) for name in "abc"[: case.models]]


async def _overload(server: FaultServer, case: Case, over: float) -> None:
    backend = Behaviour(median=MEDIAN, sigma=SIGMA, seats=SEATS, queue=case.queue, tells_wait=case.tells_wait)
    server.behave(a=backend, b=backend, c=backend)
    capacity = CAPACITY * case.models
    routing = RoutingOptions(deadline=DEADLINE)
    async with AsyncRouter(models=_models(server, case)) as router:
        await at_rate(router, round(capacity), capacity / 2, routing=routing)
        server.reset()
        # The next begins when the last of these has come, not when it is over.
        first = asyncio.create_task(
            at_rate(router, round(2 * capacity * over), 2 * capacity, routing=routing)
        )
        await asyncio.sleep(over)
        second = await at_rate(router, round(capacity / 2 * AFTER), capacity / 2, routing=routing)
        _show(case, await first, second, capacity * over)
    counts = server.counts()
    wasted = sum(one.left for one in counts.values())
    shed = sum(one.shed for one in counts.values())
    note(f"server: {sum(one.accepted for one in counts.values())} accepted, {wasted} given up, {shed} shed")


def _show(case: Case, load: Load, after: Load, capacity: float) -> None:
    good = sum(outcome.ok for outcome in load.outcomes)
    shed = [outcome.took for outcome in load.outcomes if not outcome.ok]
    bad = [
        outcome.ended for outcome in after.outcomes if not outcome.ok or outcome.took > WELL_TIMES * MEDIAN
    ]
    note(f"{case.what}: {load}; errors: {load.errors}")
    ask_at_least(f"{case.what}: goodput", good / capacity, 0.8, "{:.2f}")
    note(
        f"until an error: p50 {percentile(shed, 0.5) * 1e3:.0f} ms, p99 {percentile(shed, 0.99) * 1e3:.0f} ms; "
        f"after the drop: {after}; errors: {after.errors}"
    )
    ask_at_most(
        "  seconds until all is well after the drop", max(bad, default=0.0), RECOVERED_WITHIN, "{:.2f}"
    )
