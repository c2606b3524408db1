"""What waiting at a limit costs, and where the policy sends those who would wait.

`python -m tests.benchmarks.waiting` prints the CPU time per request of requests that all arrive at once at a
model that takes sixteen at a time, and, of sixty at a cheap model that takes ten at a time beside one that is
a hundred times dearer, how many paid the higher price for the sake of the wait.
"""

from __future__ import annotations

import asyncio
import resource
import time

from openai.types.chat import ChatCompletionUserMessageParam

from router import AsyncRouter, OverloadedError, Policy, Price, Recovery
from router.testing.scripted import ScriptedModel, Step

MESSAGES: list[ChatCompletionUserMessageParam] = [{"role": "user", "content": "How do I change my booking?"}]


def cpu_seconds() -> float:
    """CPU time of this process, all threads."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


async def crowd(requests: int, places: int) -> tuple[float, float, int]:
    """CPU milliseconds per request, seconds in all, and how many were turned away."""
    model = ScriptedModel(
        "narrow", script=[Step(ttft=0.01)], max_concurrency=places, speed_ttft=0.01, speed_decode=100_000
    )
    async with AsyncRouter([model], recovery=Recovery(attempt_timeout=300)) as router:
        await router.chat.completions.create(messages=MESSAGES)
        began, used = time.monotonic(), cpu_seconds()
        answers = await asyncio.gather(
            *(router.chat.completions.create(messages=MESSAGES) for _ in range(requests)),
            return_exceptions=True,
        )
        used, took = cpu_seconds() - used, time.monotonic() - began
    lost = [answer for answer in answers if isinstance(answer, BaseException)]
    for error in {type(error): error for error in lost if not isinstance(error, OverloadedError)}.values():
        print("lost:", repr(error))
    return used / requests * 1000, took, len(lost)


async def spill(requests: int) -> tuple[int, float]:
    """How many went to the dear model, and the seconds that all took."""
    step = Step(text="word " * 20, ttft=0.1, completion_tokens=20)
    cheap = ScriptedModel(
        "cheap", script=[step], max_concurrency=10, price=Price(input=0.1, output=1), speed_ttft=0.1
    )
    dear = ScriptedModel("dear", script=[step], price=Price(input=10, output=100), speed_ttft=0.1)
    policy = Policy(value_of_time=0.0005, explore=0)
    async with AsyncRouter([cheap, dear], policy=policy) as router:
        began = time.monotonic()
        answers = await asyncio.gather(
            *(router.chat.completions.create(messages=MESSAGES, max_tokens=20) for _ in range(requests))
        )
        took = time.monotonic() - began
    return sum(answer.routing.model == "dear" for answer in answers), took


def main() -> None:
    """Prints the figures."""
    for requests in (200, 2000):
        each, took, lost = asyncio.run(crowd(requests, 16))
        print(
            f"{requests:5} at once, 16 at a time: {each:6.2f} ms CPU each, {took:5.1f} s, {lost} turned away"
        )
    dear, took = asyncio.run(spill(60))
    print(f"60 at once, 10 at a time: {dear} went to a model 100 times dearer, all took {took:.1f} s")


if __name__ == "__main__":
    main()
