"""Loads: requests that come at a rate, whatever becomes of those before; and what came of them."""

from __future__ import annotations

import asyncio
import random
import resource
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from openai.types.chat import ChatCompletionUserMessageParam

from router import AsyncRouter, Decision, RouterError, RoutingOptions

__all__ = ["MESSAGES", "Load", "Outcome", "ask", "at_rate", "cpu_seconds", "percentile"]

MESSAGES: list[ChatCompletionUserMessageParam] = [
    {"role": "user", "content": "Which of the guests may cancel free of charge before Friday noon?"}
]

#: Seconds that a request may be sent later than it should before its client counts as too busy to measure.
TOO_LATE = 0.2


@dataclass(slots=True)
class Outcome:
    """What became of one request.

    Attributes:
        at: When it came, in seconds since the load began.
        took: Seconds until its answer, or its error.
        error: The error's type; "" if it was answered.
        model: Who answered.
        attempts: As its decision tells.
    text: Of a stream, as far as it came.
    """

    at: float
    took: float
    error: str = ""
    model: str | None = None
    attempts: int = 0
    text: str = ""

    @property
    def ok(self) -> bool:
        """Whether it was answered."""
        return not self.error

    @property
    def ended(self) -> float:
        """When it was over, in seconds since the load began."""
        return self.at + self.took


@dataclass(slots=True)
class Load:
    """What became of all requests of a load.

    Attributes:
        outcomes: In the order in which they came.
        seconds: How long all of it took.
        cpu: Seconds of CPU that this process took meanwhile.
        late: The most seconds that a request was sent later than it should: the client was too busy.
    """

    outcomes: list[Outcome] = field(default_factory=list)
    seconds: float = 0.0
    cpu: float = 0.0
    late: float = 0.0

    @property
    def lost(self) -> int:
        """Requests that were not answered."""
        return sum(not outcome.ok for outcome in self.outcomes)

    @property
    def errors(self) -> str:
        """How many errors of which type."""
        found = Counter(outcome.error for outcome in self.outcomes if outcome.error)
        return ", ".join(f"{count} {name}" for name, count in found.most_common(3)) or "none"

    def p(self, share: float) -> float:
        """A quantile of the seconds of the answered."""
        return percentile([outcome.took for outcome in self.outcomes if outcome.ok], share)

    def __str__(self) -> str:
        busy = " (the client was too busy: times are not to be trusted)" if self.late > TOO_LATE else ""
        return (
            f"p50 {self.p(0.5) * 1e3:.0f} ms, p99 {self.p(0.99) * 1e3:.0f} ms, "
            f"client CPU {self.cpu / max(self.seconds, 1e-9):.0%}, at most {self.late * 1e3:.0f} ms late{busy}"
        )


def percentile(values: Iterable[float], share: float) -> float:
    """The value that this share of them does not exceed; NaN if there are none."""
    ordered = sorted(values)
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)] if ordered else float("nan")


def cpu_seconds() -> float:
    """CPU time of this process, all threads."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


async def ask(
    router: AsyncRouter,
    since: float,
    *,
    stream: bool = False,
    max_tokens: int = 16,
    routing: RoutingOptions | None = None,
) -> Outcome:
    """Sends one request and waits for its end."""
    begun = time.monotonic()
    outcome = Outcome(begun - since, 0.0)
    options = routing or RoutingOptions()
    try:
        if stream:
            chunks = await router.chat.completions.create(
                messages=MESSAGES, max_tokens=max_tokens, stream=True, routing=options
            )
            async for chunk in chunks:
                if chunk.choices:
                    outcome.text += chunk.choices[0].delta.content or ""
            decision: Decision | None = chunks.routing
        else:
            answer = await router.chat.completions.create(
                messages=MESSAGES, max_tokens=max_tokens, routing=options
            )
            decision = answer.routing
    except RouterError as error:
        outcome.error, decision = type(error).__name__, error.decision
    except Exception as error:  # noqa: BLE001 - an error of no type of ours is a finding, too
        outcome.error, decision = f"!{type(error).__name__}", None
    outcome.took = time.monotonic() - begun
    if decision is not None:
        outcome.model, outcome.attempts = decision.model, len(decision.attempts)
    return outcome


async def at_rate(
    router: AsyncRouter,
    count: int,
    rate: float,
    *,
    stream: bool = False,
    max_tokens: int = 16,
    routing: RoutingOptions | None = None,
    at: Sequence[tuple[float, Callable[[], object]]] = (),
) -> Load:
    """Sends requests at random times (a Poisson process, the same one each time).

    Args:
        router: Whom to ask.
        count: How many.
        rate: Requests per second.
        stream: Whether they stream.
        max_tokens: Of each.
        routing: Of each.
        at: What to do on the way: after so many seconds, in order.
    """
    gaps = random.Random(11)
    load, todo = Load(), list(at)
    tasks: list[asyncio.Task[Outcome]] = []
    before, begun = cpu_seconds(), time.monotonic()
    due = begun
    for _ in range(count):
        due += gaps.expovariate(rate)
        left = due - time.monotonic()
        if left > 0.0:
            await asyncio.sleep(left)
        else:
            load.late = max(load.late, -left)
            await asyncio.sleep(0)
        while todo and due - begun >= todo[0][0]:
            await asyncio.to_thread(todo.pop(0)[1])
        tasks.append(
            asyncio.create_task(ask(router, begun, stream=stream, max_tokens=max_tokens, routing=routing))
        )
    load.outcomes = list(await asyncio.gather(*tasks))
    load.seconds = time.monotonic() - begun
    load.cpu = cpu_seconds() - before
    return load
