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
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from openai import AsyncOpenAI, OpenAI
from openai.types.chat import ChatCompletionStreamOptionsParam, ChatCompletionUserMessageParam

from router import AsyncRouter, Budget, HostedModel, Policy, Price, Router
from router.deciding import choose, situation_of
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


class SDK:
    """The bare client of openai."""

    def __init__(self, base_url: str) -> None:
        self.client = AsyncOpenAI(base_url=base_url, api_key="none", max_retries=0)

    async def call(self) -> None:
        """One call."""
        await self.client.chat.completions.create(model="any", messages=MESSAGES, max_tokens=64)

    async def stream(self) -> None:
        """One stream, read to its end."""
        options: ChatCompletionStreamOptionsParam = {"include_usage": True}
        async for _ in await self.client.chat.completions.create(
            model="any", messages=MESSAGES, max_tokens=64, stream=True, stream_options=options
        ):
            pass


class Routed:
    """The same over AsyncRouter."""

    def __init__(self, router: AsyncRouter) -> None:
        self.router = router

    async def call(self) -> None:
        """One call."""
        await self.router.chat.completions.create(messages=MESSAGES, max_tokens=64)

    async def stream(self) -> None:
        """One stream, read to its end."""
        async for _ in await self.router.chat.completions.create(
            messages=MESSAGES, max_tokens=64, stream=True
        ):
            pass


class SyncSDK:
    """The bare synchronous client of openai."""

    def __init__(self, base_url: str) -> None:
        self.client = OpenAI(base_url=base_url, api_key="none", max_retries=0)

    def call(self) -> None:
        """One call."""
        self.client.chat.completions.create(model="any", messages=MESSAGES, max_tokens=64)

    def stream(self) -> None:
        """One stream, read to its end."""
        options: ChatCompletionStreamOptionsParam = {"include_usage": True}
        for _ in self.client.chat.completions.create(
            model="any", messages=MESSAGES, max_tokens=64, stream=True, stream_options=options
        ):
            pass


class SyncRouted:
    """The same over Router."""

    def __init__(self, router: Router) -> None:
        self.router = router

    def call(self) -> None:
        """One call."""
        self.router.chat.completions.create(messages=MESSAGES, max_tokens=64)

    def stream(self) -> None:
        """One stream, read to its end."""
        for _ in self.router.chat.completions.create(messages=MESSAGES, max_tokens=64, stream=True):
            pass


async def at_once(job: Callable[[], Awaitable[object]], concurrency: int) -> None:
    """Does a job `CALLS` times, `concurrency` of them at a time."""
    left = iter(range(CALLS))

    async def worker() -> None:
        for _ in left:
            await job()

    await asyncio.gather(*(worker() for _ in range(concurrency)))


async def measure_async(base_url: str, folder: Path) -> None:
    """Prints CPU per call and per stream, of the SDK and of AsyncRouter."""
    sdk = SDK(base_url)
    async with AsyncRouter(
        models=models(base_url), budget=Budget(usd=1e6), ledger=folder / "a.db", policy=POLICY
    ) as router:
        routed = Routed(router)
        for concurrency in (1, 32):
            for what, bare, ours in (
                ("call", sdk.call, routed.call),
                ("16-chunk stream", sdk.stream, routed.stream),
            ):
                figures = Figures()
                for _ in range(ROUNDS + 1):
                    with figures.bare():
                        await at_once(bare, concurrency)
                    with figures.routed():
                        await at_once(ours, concurrency)
                figures.show(f"{what}, {concurrency} at once")
    await sdk.client.close()


def measure_sync(base_url: str, folder: Path) -> None:
    """Prints CPU per call and per stream of the synchronous Router beside the synchronous SDK."""
    sdk = SyncSDK(base_url)
    with Router(
        models=models(base_url), budget=Budget(usd=1e6), ledger=folder / "s.db", policy=POLICY
    ) as router:
        routed = SyncRouted(router)
        for threads in (1, 8):
            for what, bare, ours in (
                ("call", sdk.call, routed.call),
                ("16-chunk stream", sdk.stream, routed.stream),
            ):
                figures = Figures()
                with ThreadPoolExecutor(threads) as pool:
                    for _ in range(ROUNDS + 1):
                        with figures.bare():
                            in_threads(pool, bare)
                        with figures.routed():
                            in_threads(pool, ours)
                figures.show(f"sync {what}, {threads} threads")
    sdk.client.close()


def in_threads(pool: ThreadPoolExecutor, job: Callable[[], None]) -> None:
    """Does a job `CALLS` times on a pool of threads."""
    for done in [pool.submit(job) for _ in range(CALLS)]:
        done.result()


class Figures:
    """CPU milliseconds per call, of the SDK and of the router, round by round; the first is a warm-up."""

    def __init__(self) -> None:
        self._bare: list[float] = []
        self._routed: list[float] = []

    @contextmanager
    def bare(self) -> Iterator[None]:
        """Measures a round of the SDK."""
        before = cpu_ms()
        yield
        self._bare.append((cpu_ms() - before) / CALLS)

    @contextmanager
    def routed(self) -> Iterator[None]:
        """Measures a round of the router."""
        before = cpu_ms()
        yield
        self._routed.append((cpu_ms() - before) / CALLS)

    def show(self, what: str) -> None:
        """One row: medians of both, and of the differences pair by pair."""
        bare, routed = self._bare[1:], self._routed[1:]
        added = statistics.median(b - a for a, b in zip(bare, routed, strict=True))
        print(
            f"{what:<32} SDK {statistics.median(bare):5.2f} ms   router {statistics.median(routed):5.2f} ms   "
            f"added {added:+5.2f} ms"
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
        whole = timed(partial(router.route, messages=MESSAGES))
        alone = timed(decision_of(router))
        print(f"{count:>8} {whole:>11.0f} µs {alone:>11.0f} µs")


def decision_of(router: AsyncRouter) -> Callable[[], object]:
    """The decision alone, as a job: the situation is read, and the models are ranked."""
    core = router._core
    routing = choose(core, parse_request({"messages": MESSAGES}))

    def decide() -> object:
        now = situation_of(core, core.fleet, routing.features)
        return rank(core.fleet, routing.features, routing.rules, now)

    return decide


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


if __name__ == "__main__":
    main()
