"""Streams break in the middle: never is a part passed off as the whole, and what can be continued is."""

from __future__ import annotations

import asyncio

from router import AsyncRouter, Recovery
from router.errors import ConfigurationError
from tests.benchmarks.faults.behaviour import Behaviour
from tests.benchmarks.faults.control import FaultServer
from tests.benchmarks.faults.load import Load, at_rate
from tests.benchmarks.faults.making import three
from tests.benchmarks.faults.report import Settings, ask_at_most, note, title
from tests.benchmarks.faults.server import whole_text

REQUESTS, RATE, CHUNKS = 600, 100.0, 8
CUT_SHARE = 0.3


def run(server: FaultServer, settings: Settings) -> None:
    """Prints what readers of cut streams are told."""
    title(f"cutting: {CUT_SHARE:.0%} of the streams of each of three models are cut in the middle")
    cut = Behaviour(median=0.08, fault="cut", fault_share=CUT_SHARE, chunks=CHUNKS)
    server.behave(a=cut, b=cut, c=cut)
    for way in ("raise", "continue"):
        try:
            recovery = Recovery.parse({"on_interrupt": way})
        except ConfigurationError:
            note(f"on_interrupt={way!r}: there is no such choice")
            continue
        server.reset()
        load = asyncio.run(_drive(server, settings, recovery))
        _show(server, way, load)


async def _drive(server: FaultServer, settings: Settings, recovery: Recovery) -> Load:
    async with AsyncRouter(models=three(server, provider="vllm"), recovery=recovery) as router:
        return await at_rate(router, settings.count(REQUESTS), RATE, stream=True)


def _show(server: FaultServer, way: str, load: Load) -> None:
    whole = whole_text(CHUNKS)
    cut = sum(counts.faults for counts in server.counts().values())
    passed_off = sum(outcome.ok and outcome.text != whole for outcome in load.outcomes)
    wrong = sum(not whole.startswith(outcome.text) for outcome in load.outcomes)
    other = sum(outcome.error not in {"", "StreamInterruptedError"} for outcome in load.outcomes)
    note(f"on_interrupt={way!r}: {cut} cut; {load}; errors: {load.errors}")
    ask_at_most(f"{way}: parts passed off as the whole", passed_off, 0, "{:g}")
    ask_at_most("  texts with a repeated or missing character", wrong, 0, "{:g}")
    ask_at_most("  errors of another type", other, 0, "{:g}")
    if way == "continue":  # a second cut of the same answer is not healed: "exactly once"
        ask_at_most("  interrupted all the same", load.lost / len(load.outcomes), 2 * CUT_SHARE**2, "{:.2f}")
