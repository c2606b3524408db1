"""A few answers take long: a second attempt on another model cuts them short, without doubling the load."""

from __future__ import annotations

import asyncio

from router import AsyncRouter, Policy
from tests.benchmarks.faults.behaviour import Behaviour
from tests.benchmarks.faults.control import FaultServer
from tests.benchmarks.faults.load import Load, at_rate
from tests.benchmarks.faults.making import three
from tests.benchmarks.faults.report import Settings, ask_at_most, note, title

REQUESTS, RATE = 2_400, 120.0
#: Seconds of a usual answer (median), how it scatters, and seconds of a slow one.
MEDIAN, SIGMA, SLOW, SLOW_SHARE = 0.05, 0.2, 0.8, 0.05


def run(server: FaultServer, settings: Settings) -> None:
    """Prints the figures for answers in one piece and for streams."""
    title(
        f"hedging: {SLOW_SHARE:.0%} of the answers of each of three models take {SLOW * 1e3:.0f} ms, the others "
        f"{MEDIAN * 1e3:.0f} ms (median); {settings.count(REQUESTS)} requests at {RATE:g}/s"
    )
    usual = Behaviour(median=MEDIAN, sigma=SIGMA, slow_share=SLOW_SHARE, slow_seconds=SLOW, chunks=4)
    server.behave(a=usual, b=usual, c=usual)
    without = _drive(server, settings, 0.25, hedge=False)
    note(f"without hedging: {without}")
    for stream, share in ((False, 1.0), (True, 0.5)):
        load = _drive(server, settings, share, hedge=True, stream=stream)
        note(f"{'streams' if stream else 'answers'}: {load}; errors: {load.errors}")
        ask_at_most("p99, ms" + (" (streams)" if stream else ""), load.p(0.99) * 1e3, 200, "{:.0f}")
        attempts = server.accepted() / len(load.outcomes)
        ask_at_most("  attempts per request, at the server", attempts, 1.10, "{:.3f}")
        ask_at_most("  lost", load.lost, 0, "{:g}")
        left = not server.wait_until(lambda one: one.in_flight() == 0, 0.5)
        ask_at_most("  losers in flight 0.5 s later", server.in_flight() if left else 0, 0, "{:g}")


def _drive(
    server: FaultServer, settings: Settings, share: float, *, hedge: bool, stream: bool = False
) -> Load:
    async def drive() -> Load:
        async with AsyncRouter(models=three(server), policy=Policy(hedge=hedge)) as router:
            await at_rate(router, 200, RATE, stream=stream)  # what is usual is learned
            server.reset()
            return await at_rate(router, settings.count(round(REQUESTS * share)), RATE, stream=stream)

    return asyncio.run(drive())
