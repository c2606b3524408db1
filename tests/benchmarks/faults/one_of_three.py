"""One of three equal models fails: nothing may be lost, and hardly a request may touch it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from router import AsyncRouter, Policy, Recovery
from tests.benchmarks.faults.behaviour import Behaviour
from tests.benchmarks.faults.control import FaultServer
from tests.benchmarks.faults.load import Load, at_rate
from tests.benchmarks.faults.making import CHEAP, hosted, three
from tests.benchmarks.faults.report import Settings, ask_at_most, note, title

#: Of the issue, before time is scaled: requests, and requests per second.
REQUESTS, RATE = 10_000, 60.0
#: Seconds, before time is scaled: an answer (median), an attempt at most, a cooldown.
MEDIAN, TIMEOUT, COOLDOWN = 0.4, 10.0, 10.0
#: How answers scatter: the p99 is 1.8 times the median.
SIGMA = 0.25
#: The fault of the later variants begins at this share of the requests.
LATER = 0.1


@dataclass(frozen=True, slots=True)
class Case:
    """A fault and what is asked of the router under it.

    Attributes:
        what: For people.
        fault: How `a` behaves.
        touched: The most requests that may touch it, as a share; None: any.
        attempts: Attempts per request.
        share: Of the issue's number of requests; variants that the issue does not name take fewer.
        stream: Whether requests stream.
        later: Whether `a` is well at first.
        cheapest: Whether `a` is, and the policy takes the cheapest; else the three share the load.
        everywhere: Whether the fault is that of all three.
        lost: The most requests that may be lost, as a share.
    """

    what: str
    fault: Behaviour
    touched: float | None
    attempts: float
    share: float = 1.0
    stream: bool = False
    later: bool = False
    cheapest: bool = False
    everywhere: bool = False
    lost: float = 0.0


def run(server: FaultServer, settings: Settings) -> None:
    """Prints the figures of all cases, beside those of three healthy models."""
    speed = settings.speed
    title(
        f"one of three: {settings.count(REQUESTS)} requests at {RATE:g}/s; time runs {speed:g} times as fast: "
        f"rate, answers (median {MEDIAN:g} s), attempt_timeout ({TIMEOUT:g} s) and cooldown ({COOLDOWN:g} s)"
    )
    well = Behaviour(median=MEDIAN / speed, sigma=SIGMA, chunks=4)
    healthy: dict[bool, Load] = {}
    for case in _cases(well):
        if case.stream not in healthy:
            server.behave(a=well, b=well, c=well)
            healthy[case.stream] = _drive(server, settings, 0.25, well, case)
            note(f"healthy{', streaming' if case.stream else ''}: {healthy[case.stream]}")
        server.behave(a=well, b=well, c=well)
        load = _drive(server, settings, case.share, case.fault, case)
        _show(server, settings, case, load, healthy[case.stream])


def _cases(well: Behaviour) -> list[Case]:
    def ill(fault: str, share: float = 1.0) -> Behaviour:
        return Behaviour(median=well.median, sigma=SIGMA, fault=fault, fault_share=share)

    hole, later = ill("silent"), "begins later"
    return [
        Case(f"black hole, {later}", hole, 0.005, 1.05, later=True),
        Case("black hole from the start", hole, 0.005, 1.05, share=0.4),
        Case("dead (500 at once)", ill("error"), 0.005, 1.05, share=0.6),
        Case("30 % errors", ill("error", 0.3), None, 1.12, share=0.5),
        Case(f"black hole of the cheapest, {later}", hole, 0.005, 1.05, share=0.3, later=True, cheapest=True),
        Case(f"stalled streams, {later}", ill("headers"), 0.005, 1.05, share=0.15, later=True, stream=True),
        # By chance, four attempts in a row fail for one request in 2,000; no more may be lost to open breakers.
        Case("15 % errors at each", ill("error", 0.15), None, 1.2, share=0.2, everywhere=True, lost=0.003),
        Case(f"connections reset, {later}", ill("reset"), 0.005, 1.05, share=0.15, later=True),
    ]


def _drive(server: FaultServer, settings: Settings, share: float, fault: Behaviour, case: Case) -> Load:
    """Sends the requests of a case."""
    count, rate = settings.count(round(REQUESTS * share)), RATE * settings.speed

    def fall_ill() -> None:
        server.behave(**dict.fromkeys("abc" if case.everywhere else "a", fault))
        server.reset()

    async def drive() -> Load:
        recovery = Recovery(
            attempt_timeout=TIMEOUT / settings.speed,
            ttft_timeout=TIMEOUT / settings.speed,
            cooldown=COOLDOWN / settings.speed,
        )
        policy, models = Policy(), three(server)
        if case.cheapest:
            policy, models[0] = Policy.cheapest(), hosted(server, "a", price=CHEAP)
        async with AsyncRouter(models=models, policy=policy, recovery=recovery) as router:
            await at_rate(router, 3, rate)  # the SDK is loaded
            if not case.later:
                fall_ill()
            at = [(count * LATER / rate, fall_ill)] if case.later else []
            return await at_rate(router, count, rate, stream=case.stream, at=at)

    return asyncio.run(drive())


def _show(server: FaultServer, settings: Settings, case: Case, load: Load, healthy: Load) -> None:
    counts = server.counts()
    during = len(load.outcomes) * (1.0 - LATER if case.later else 1.0)
    touched, slower = counts["a"].accepted, load.p(0.99) / healthy.p(0.99)
    attempts = sum(one.accepted for one in counts.values()) / during
    note(f"{case.what}, {len(load.outcomes)} requests: {load}; errors: {load.errors}")
    ask_at_most(f"{case.what}: lost", load.lost, int(case.lost * len(load.outcomes)), "{:g}")
    if case.touched is None:
        note(f"share that touches it: {touched / during:.1%}")
    elif case.share < 0.5:  # the first few touch it however many follow: as many may as in the whole run
        ask_at_most("  requests that touch it", touched, case.touched * settings.count(REQUESTS), "{:.0f}")
    else:
        ask_at_most("  share that touches it", touched / during, case.touched, "{:.2%}")
    if case.share < 0.5:
        note(f"p99 / healthy p99: {slower:.2f}")
    else:
        ask_at_most("  p99 / healthy p99", slower, 1.2, "{:.2f}")
    ask_at_most("  attempts per request, at the server", attempts, case.attempts, "{:.3f}")
