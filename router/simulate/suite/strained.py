"""Scenarios under load, in trouble, in a hurry, and with a memory."""

from __future__ import annotations

from router.config import Recovery, RoutingOptions
from router.simulate.arrivals import AtOnce, Poisson
from router.simulate.backends import PromptCache
from router.simulate.processes import Bursts, Outages
from router.simulate.suite.scenario import CHAT, Scenario, four_hosts, host
from router.simulate.workload import Conversation, Task, Workload

__all__ = ["bursts", "conversations", "deadline", "flood", "outages"]


def bursts(requests: int) -> Scenario:
    """Too much at once, now and then."""
    return Scenario(
        name="bursts",
        kind="bursts",
        about="bursts of eight times the usual traffic on hosts with few places",
        workload=Workload(
            tasks=CHAT,
            arrivals=Poisson(rate=3, over_time=(Bursts(factor=8, every=90, lasting=10),)),
            requests=requests,
        ),
        backends=four_hosts(
            thrifty={"slots": 16}, balanced={"slots": 10}, swift={"slots": 8}, premium={"slots": 32}
        ),
    )


def outages(requests: int) -> Scenario:
    """Hosts that give no answer at all."""
    rate = 4.0
    span = requests / rate
    return Scenario(
        name="outages",
        kind="outages",
        about="one host refuses connections for a while, later another answers nothing; both are the best",
        workload=Workload(tasks=CHAT, arrivals=Poisson(rate=rate), requests=requests),
        backends=four_hosts(
            balanced={"outages": Outages(at=((span * 0.2, span * 0.1),))},
            swift={"outages": Outages(kind="silent", at=((span * 0.5, span * 0.08),)), "failure": 0.01},
        ),
    )


_SHORT = Task(name="short", prompt_tokens=600, output_tokens=60)


def flood(requests: int) -> Scenario:
    """Ten thousand at once must not all go where it was fast a second ago."""
    return Scenario(
        name="flood",
        kind="flood",
        about="after two quiet minutes, all requests arrive at the same moment, on hosts with limited places",
        workload=Workload(
            tasks=(_SHORT,), arrivals=AtOnce(at=120.0, before=Poisson(rate=3)), requests=min(requests, 10_000)
        ),
        backends=four_hosts(
            thrifty={"slots": 150}, balanced={"slots": 120}, swift={"slots": 100}, premium={"slots": 150}
        ),
        recovery=Recovery(attempt_timeout=120),
    )


def deadline(requests: int) -> Scenario:
    """What is too late is worth nothing."""
    urgent = RoutingOptions(deadline=2.0)
    return Scenario(
        name="deadline of 2 s",
        kind="deadline",
        about="every request must be answered within two seconds; the cheaper hosts are often too late",
        workload=Workload(
            tasks=(
                Task(name="short", share=60, prompt_tokens=500, output_tokens=40, options=urgent),
                Task(
                    name="middle", share=40, prompt_tokens=900, output_tokens=110, options=urgent, stream=True
                ),
            ),
            arrivals=Poisson(rate=4),
            requests=requests,
        ),
        backends=four_hosts(swift_price=(3.0, 10.0)),
    )


def conversations(requests: int) -> Scenario:
    """Staying where the prompt is cached pays as long as it is cheaper."""
    return Scenario(
        name="conversations",
        kind="conversations",
        about="conversations of six turns on a long document; two hosts keep prompts and bill them less",
        workload=Workload(
            tasks=(
                Task(
                    name="document",
                    prompt_tokens=9_000,
                    prompt_sigma=0.4,
                    output_tokens=160,
                    conversation=Conversation(turns=6, think=25),
                ),
            ),
            arrivals=Poisson(rate=0.5),
            requests=requests,
        ),
        backends=(
            host("keeps-a", (0.42, 2.0), cached=0.05, ttft=0.4, decode=85, cache=PromptCache()),
            host("keeps-b", (0.60, 1.6), cached=0.15, ttft=0.7, decode=70, cache=PromptCache(hit=0.9)),
            host("plain", (0.36, 1.5), ttft=0.6, decode=60),
            host("quick", (0.75, 3.5), ttft=0.2, decode=230, prefill=40_000),
        ),
    )
