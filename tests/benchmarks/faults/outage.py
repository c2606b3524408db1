"""All models fail: the outage is not made worse, callers are told at once, and its end is noticed soon."""

from __future__ import annotations

import asyncio
import time
from collections import Counter

from router import AsyncRouter, Recovery
from tests.benchmarks.faults.behaviour import Behaviour
from tests.benchmarks.faults.control import FaultServer
from tests.benchmarks.faults.load import Load, ask, at_rate, percentile
from tests.benchmarks.faults.making import three
from tests.benchmarks.faults.report import Settings, ask_at_most, figure, note, title

REQUESTS, RATE = 1_000, 200.0
COOLDOWN, TIMEOUT = 2.0, 1.0
WELL = Behaviour(median=0.03)


def run(server: FaultServer, settings: Settings) -> None:
    """Prints the figures for an outage of each kind."""
    title(
        f"outage: all three models fail, {settings.count(REQUESTS)} requests at {RATE:g}/s "
        f"(cooldown {COOLDOWN:g} s, attempt_timeout {TIMEOUT:g} s)"
    )
    for what, fault in (
        ("dead (500)", Behaviour(fault="error")),
        ("black hole", Behaviour(fault="silent")),
        ("overloaded (503, Retry-After: 1)", Behaviour(fault="error", status=503, retry_after=1.0)),
        ("reset", Behaviour(fault="reset")),
    ):
        asyncio.run(_fail(server, settings.count(REQUESTS), what, fault))
    late_error = Behaviour(fault="error", error_seconds=0.3)
    for what, fault, models in (
        ("all at once, 500 after 0.3 s", late_error, 3),
        ("all at once, 500 after 0.3 s, one model", late_error, 1),
        ("all at once, black hole", Behaviour(fault="silent"), 3),
    ):
        asyncio.run(_burst(server, settings.count(REQUESTS), what, fault, models))


async def _fail(server: FaultServer, count: int, what: str, fault: Behaviour) -> None:
    recovery = Recovery(cooldown=COOLDOWN, attempt_timeout=TIMEOUT)
    async with AsyncRouter(models=three(server), recovery=recovery) as router:
        server.behave(a=WELL, b=WELL, c=WELL)
        await at_rate(router, 50, RATE)
        server.behave(a=fault, b=fault, c=fault)
        server.reset()
        load = await at_rate(router, count, RATE)
        attempts = server.accepted() / count
        ask_at_most(f"{what}: attempts per request", attempts, 1.1, "{:.3f}")
        _show_failing_fast(load)
        server.behave(a=WELL, b=WELL, c=WELL)
        await _recover(router)


async def _burst(server: FaultServer, count: int, what: str, fault: Behaviour, models: int) -> None:
    """Nobody knows of the outage yet when all requests come: what one of them learns must help the others."""
    recovery = Recovery(cooldown=COOLDOWN, attempt_timeout=TIMEOUT)
    async with AsyncRouter(models=three(server)[:models], recovery=recovery) as router:
        server.behave(a=WELL, b=WELL, c=WELL)
        await at_rate(router, 20, RATE)
        server.behave(a=fault, b=fault, c=fault)
        server.reset()
        begun = time.monotonic()
        outcomes = await asyncio.gather(*(ask(router, begun) for _ in range(count)))
    ask_at_most(f"{what}: attempts per request", server.accepted() / count, 1.1, "{:.3f}")
    types = Counter(outcome.error for outcome in outcomes)
    note(f"errors: {dict(types)}; p99 of all {percentile([o.took for o in outcomes], 0.99) * 1e3:.0f} ms")


def _show_failing_fast(load: Load) -> None:
    answered = sum(outcome.ok for outcome in load.outcomes)
    open_ = [outcome.took for outcome in load.outcomes if not outcome.ok and not outcome.attempts]
    first = next((outcome.at for outcome in load.outcomes if not outcome.attempts), float("nan"))
    if open_:
        ask_at_most("  p99 until the error once open, ms", percentile(open_, 0.99) * 1e3, 50, "{:.1f}")
    else:
        figure("  p99 until the error once open, ms", "never open", "<= 50", reached=False)
    types = Counter(outcome.error for outcome in load.outcomes if outcome.error)
    ask_at_most("  types of error", len(types), 1, "{:g}")
    every = percentile([outcome.took for outcome in load.outcomes], 0.99)
    note(
        f"{answered} answered; errors: {load.errors}; {len(open_)} asked nobody, the first at {first:.2f} s; "
        f"p99 of all {every * 1e3:.0f} ms"
    )


async def _recover(router: AsyncRouter) -> None:
    """Asks on, twenty times a second, until all is well again."""
    begun = time.monotonic()
    tasks = []
    while time.monotonic() < begun + COOLDOWN + 4.0:
        tasks.append(asyncio.create_task(ask(router, begun)))
        await asyncio.sleep(0.05)
    outcomes = await asyncio.gather(*tasks)
    first = min((outcome.ended for outcome in outcomes if outcome.ok), default=float("inf"))
    last = max((outcome.ended for outcome in outcomes if not outcome.ok), default=0.0)
    ask_at_most("  seconds to the first answer", first, COOLDOWN + 1.0, "{:.2f}")
    ask_at_most("  seconds to the last failure", last, COOLDOWN + 1.0, "{:.2f}")
