"""What the router adds to a call: CPU beside the bare openai SDK's, in one run, on a loopback server.

`python -m tests.benchmarks.overhead` prints, for one call and for 32 at once: the CPU time of the whole process
(all threads, the ledger's writer too) per call and per stream of 16 chunks, of the bare AsyncOpenAI client, of
AsyncRouter and of the synchronous Router, both with a file ledger and a budget; and how long `route()` and the
decision alone take. The server runs in a process of its own. Medians of several rounds, taken in turn.
"""

from __future__ import annotations

import asyncio
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from openai import AsyncOpenAI
from openai.types.chat import ChatCompletionUserMessageParam

from router import AsyncRouter, Budget, HostedModel, Policy, Price, Router
from router.deciding import situation_of
from router.ranking import rank
from router.testing.server import serve_in_child
from router.validation import parse_request

ROUNDS = 7
CALLS = 192
PROMPT = "The customer asks whether the flat may be cancelled free of charge before Friday noon. " * 12
TEXT = "abcd" * 16
MESSAGES: list[ChatCompletionUserMessageParam] = [{"role": "user", "content": PROMPT}]


def cpu_ms() -> float:
    """CPU time of this process, all threads, in milliseconds."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return (used.ru_utime + used.ru_stime) * 1000


async def at_once(job: Callable[[], Awaitable[object]], calls: int, concurrency: int) -> None:
    """Makes `calls` calls, `concurrency` of them at a time."""
    left = iter(range(calls))

    async def worker() -> None:
        for _ in left:
            await job()

    await asyncio.gather(*(worker() for _ in range(concurrency)))


async def measure_async(base_url: str, folder: Path) -> None:
    """Prints CPU per call and per stream, of the SDK and of AsyncRouter."""
    client = AsyncOpenAI(base_url=base_url, api_key="none", max_retries=0)
    router = AsyncRouter(
        models=models(base_url), budget=Budget(usd=1e6), ledger=folder / "a.db", policy=POLICY
    )

    async def bare() -> None:
        await client.chat.completions.create(model="any", messages=MESSAGES, max_tokens=64)

    async def bare_stream() -> None:
        stream = await client.chat.completions.create(
            model="any",
            messages=MESSAGES,
            max_tokens=64,
            stream=True,
            stream_options={"include_usage": True},
        )
        async for _ in stream:
            pass

    async def routed() -> None:
        await router.chat.completions.create(messages=MESSAGES, max_tokens=64)

    async def routed_stream() -> None:
        stream = await router.chat.completions.create(messages=MESSAGES, max_tokens=64, stream=True)
        async for _ in stream:
            pass

    pairs = {"call": (bare, routed), "16-chunk stream": (bare_stream, routed_stream)}
    for concurrency in (1, 32):
        for what, jobs in pairs.items():
            figures: list[list[float]] = [[], []]
            for round_ in range(ROUNDS + 1):
                for figure, job in zip(figures, jobs, strict=True):
                    before = cpu_ms()
                    await at_once(job, CALLS, concurrency)
                    if round_:  # the first is a warm-up
                        figure.append((cpu_ms() - before) / CALLS)
            show(f"{what}, {concurrency} at once", *figures)
    await client.close()
    await router.aclose()


def measure_sync(base_url: str, folder: Path) -> None:
    """Prints CPU per call and per stream of the synchronous Router beside the synchronous SDK."""
    from openai import OpenAI

    client = OpenAI(base_url=base_url, api_key="none", max_retries=0)
    with Router(
        models=models(base_url), budget=Budget(usd=1e6), ledger=folder / "s.db", policy=POLICY
    ) as router:

        def bare() -> None:
            client.chat.completions.create(model="any", messages=MESSAGES, max_tokens=64)

        def routed() -> None:
            router.chat.completions.create(messages=MESSAGES, max_tokens=64)

        def bare_stream() -> None:
            for _ in client.chat.completions.create(
                model="any", messages=MESSAGES, max_tokens=64, stream=True
            ):
                pass

        def routed_stream() -> None:
            for _ in router.chat.completions.create(messages=MESSAGES, max_tokens=64, stream=True):
                pass

        pairs = {"sync call": (bare, routed), "sync 16-chunk stream": (bare_stream, routed_stream)}
        for threads in (1, 8):
            with ThreadPoolExecutor(threads) as pool:
                for what, jobs in pairs.items():
                    figures: list[list[float]] = [[], []]
                    for round_ in range(ROUNDS + 1):
                        for figure, job in zip(figures, jobs, strict=True):
                            before = cpu_ms()
                            list(pool.map(lambda _, job=job: job(), range(CALLS)))
                            if round_:
                                figure.append((cpu_ms() - before) / CALLS)
                    show(f"{what}, {threads} threads", *figures)
    client.close()


def show(what: str, bare: list[float], routed: list[float]) -> None:
    """One row: medians of both and of the differences, pair by pair."""
    added = statistics.median(b - a for a, b in zip(bare, routed, strict=True))
    print(
        f"{what:<30} SDK {statistics.median(bare):6.2f} ms   router {statistics.median(routed):6.2f} ms"
        f"   added {added:+6.2f} ms"
    )


POLICY = Policy(explore=0)


def models(base_url: str) -> list[HostedModel]:
    """Two models, so that there is a choice."""
    return [
        HostedModel("cheap", base_url=base_url, model="any", price=Price(input=0.1, output=0.4)),
        HostedModel("dear", base_url=base_url, model="any", price=Price(input=2.5, output=10)),
    ]


def measure_deciding() -> None:
    """Prints how long `route()` takes, and the decision alone, features given."""
    print(f"\n{'models':>8} {'route() p50':>14} {'decision p50':>14}")
    for count in (5, 20, 100, 1000):
        router = AsyncRouter(
            models=[
                HostedModel(
                    f"model-{number}",
                    base_url="http://127.0.0.1:1/v1",
                    price=Price(input=0.1 + number % 97, output=0.4 + number % 89),
                    quality=0.1 + (number % 90) / 100,
                    context_window=128_000,
                )
                for number in range(count)
            ],
            policy=Policy(value_of_time=0.001, min_quality=0.1, max_cost=1.0, explore=0),
        )
        core = router._core
        routing = core.choose(parse_request({"messages": MESSAGES}))
        whole = timed(lambda: router.route(messages=MESSAGES))  # noqa: B023
        alone = timed(
            lambda: rank(
                core.fleet, routing.features, routing.rules, situation_of(core, core.fleet, routing.features)
            )  # noqa: B023
        )
        print(f"{count:>8} {whole:>11.0f} µs {alone:>11.0f} µs")


def timed(job: Callable[[], object]) -> float:
    """The median time of a call, in microseconds of wall time."""
    for _ in range(50):
        job()
    took = []
    for _ in range(400):
        before = time.perf_counter()
        job()
        took.append(time.perf_counter() - before)
    return statistics.median(took) * 1e6


def measure_import() -> None:
    """Prints the CPU time of `import router` beside that of asyncio and pydantic alone."""
    code = "import time; {}; print(time.process_time() * 1000)"
    baseline = "import asyncio, pydantic\nclass A(pydantic.BaseModel):\n    a: int = 1\n"
    for what, statement in (("import router", "import router"), ("asyncio and pydantic alone", None)):
        script = (
            code.format(statement)
            if statement
            else baseline + "import time; print(time.process_time() * 1000)"
        )
        took = [
            float(
                subprocess.run(
                    [sys.executable, "-c", script], capture_output=True, text=True, check=True
                ).stdout
            )
            for _ in range(7)
        ]
        print(f"{what:<30} {statistics.median(took):6.0f} ms CPU")


def main() -> None:
    """Runs all of it."""
    measure_import()
    print()
    with serve_in_child(TEXT) as base_url, tempfile.TemporaryDirectory() as folder:
        asyncio.run(measure_async(base_url, Path(folder)))
        measure_sync(base_url, Path(folder))
    measure_deciding()
    assert threading.active_count() < 10


if __name__ == "__main__":
    main()
