"""Three hundred streams are given up at once: the backends must hear of it, and the loop must not complain."""

from __future__ import annotations

import asyncio
import gc
import logging
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from router import AsyncRouter
from router.streams import AsyncRoutedStream
from tests.benchmarks.faults.behaviour import Behaviour
from tests.benchmarks.faults.control import FaultServer
from tests.benchmarks.faults.load import MESSAGES, at_rate
from tests.benchmarks.faults.making import three
from tests.benchmarks.faults.report import Settings, ask_at_least, ask_at_most, note, title

STREAMS, NEXT = 300, 200
#: A stream that goes on for a minute, and its first token after 15 s: given up while it is waited for.
FLOWING = Behaviour(median=4.0, chunks=400)
STALLED = Behaviour(median=60.0, chunks=400)


def run(server: FaultServer, settings: Settings) -> None:
    """Prints the figures for each way to give a stream up."""
    count = settings.count(STREAMS)
    title(f"cancelling: {count} streams given up at once, then {NEXT} calls")
    ways: list[tuple[str, Behaviour, Callable[[AsyncRouter, int], object]]] = [
        ("readers cancelled", FLOWING, _cancel_readers),
        ("cancelled before the first token", STALLED, _cancel_openers),
        ("closed", FLOWING, _close),
        ("dropped", FLOWING, _drop),
    ]
    for what, behaviour, way in ways:
        server.behave(a=behaviour, b=behaviour, c=behaviour)
        with _complaints() as complaints:
            asyncio.run(_give_up(server, what, count, way, complaints))
            gc.collect()
        ask_at_most("  complaints of the loop", len(complaints), 0, "{:g}")
        for complaint in sorted(set(complaints))[:3]:
            note(complaint[:160])


async def _give_up(
    server: FaultServer,
    what: str,
    count: int,
    way: Callable[[AsyncRouter, int], object],
    complaints: list[str],
) -> None:
    asyncio.get_running_loop().set_exception_handler(
        lambda _, context: complaints.append(f"loop: {context.get('message')} {context.get('exception')!r}")
    )
    async with AsyncRouter(models=three(server)) as router:
        given_up = way(router, count)
        assert asyncio.iscoroutine(given_up)
        took = await given_up
        await asyncio.sleep(0.5)
        left = await asyncio.to_thread(server.in_flight)
        ask_at_most(f"{what}: in flight at the server 0.5 s later", left, 0, "{:g}")
        usual = Behaviour(median=0.02)
        await asyncio.to_thread(server.behave, a=usual, b=usual, c=usual)
        load = await at_rate(router, NEXT, 400.0)
        ask_at_least(f"  next {NEXT} calls answered", NEXT - load.lost, NEXT, "{:g}")
        note(f"giving up took {took * 1e3:.0f} ms; next calls: {load}; errors: {load.errors}")


async def _open(router: AsyncRouter) -> AsyncRoutedStream:
    return await router.chat.completions.create(messages=MESSAGES, max_tokens=400, stream=True)


async def _cancel_all(tasks: list[asyncio.Task[None]]) -> float:
    begun = time.monotonic()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return time.monotonic() - begun


async def _cancel_readers(router: AsyncRouter, count: int) -> float:
    async def read() -> None:
        stream = await _open(router)
        await anext(stream)
        all_read.release()
        async for _ in stream:
            pass

    all_read = asyncio.Semaphore(0)
    tasks = [asyncio.create_task(read()) for _ in range(count)]
    for _ in tasks:
        await all_read.acquire()
    return await _cancel_all(tasks)


async def _cancel_openers(router: AsyncRouter, count: int) -> float:
    async def read() -> None:
        await _open(router)

    tasks = [asyncio.create_task(read()) for _ in range(count)]
    await asyncio.sleep(2.0)
    return await _cancel_all(tasks)


async def _close(router: AsyncRouter, count: int) -> float:
    streams = await asyncio.gather(*(_open(router) for _ in range(count)))
    for stream in streams:
        await anext(stream)
    begun = time.monotonic()
    await asyncio.gather(*(stream.aclose() for stream in streams))
    return time.monotonic() - begun


async def _drop(router: AsyncRouter, count: int) -> float:
    streams = list(await asyncio.gather(*(_open(router) for _ in range(count))))
    for stream in streams:
        await anext(stream)
    begun = time.monotonic()
    del stream
    streams.clear()
    return time.monotonic() - begun


@contextmanager
def _complaints() -> Iterator[list[str]]:
    """Collects warnings, errors that nobody caught, and what asyncio logs."""
    found: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: found.append(f"log: {record.name}: {record.getMessage()}")  # type: ignore[method-assign]
    before = sys.unraisablehook
    sys.unraisablehook = lambda what: found.append(f"unraisable: {what.exc_value!r} in {what.object!r}")
    logging.getLogger().addHandler(handler)
    try:
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            yield found
            found += [f"{warning.category.__name__}: {warning.message}" for warning in warned]
    finally:
        logging.getLogger().removeHandler(handler)
        sys.unraisablehook = before
