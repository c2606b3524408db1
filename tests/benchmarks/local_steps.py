"""What the local engine does by itself, for `tests.benchmarks.local`: turns, many chats, two models, steps, memory."""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any, Self

from adapters.local.batching.serving import Serving
from adapters.local.context import NativeContext
from tests.benchmarks.local_chats import CHATS, SYSTEM, adapter_of, ask, at_once, messages
from tests.gguf_files import write_gguf

__all__ = ["memory", "next_turn", "scaling", "steps", "two_models"]


async def next_turn(path: Path, threads: int) -> None:
    """The second turn of a long conversation."""
    adapter = adapter_of(path, threads)
    await ask(adapter, [{"role": "user", "content": "hi"}], 1)
    said = [{"role": "system", "content": SYSTEM * 5}, {"role": "user", "content": "Which pets are welcome?"}]
    first, _, text = await ask(adapter, said, 32)
    said += [
        {"role": "assistant", "content": text},
        {"role": "user", "content": "And when do I get the keys?"},
    ]
    second, _, _ = await ask(adapter, said, 32)
    print(f"next turn: {second * 1000:.0f} ms to the first token, {second / first:.3f}x of the first turn's")
    await adapter.aclose()


async def scaling(path: Path, threads: int) -> None:
    """More and more chats at once, each time on a warm system prompt."""
    adapter, best = adapter_of(path, threads), 0.0
    await ask(adapter, messages(0), 1)
    for chats in (1, 2, 4, 8, 16, 32):
        rates = [(await at_once(adapter, chats, 1000 * chats + 100 * number))[0] for number in range(3)]
        rate = statistics.median(rates)
        print(f"{chats:3} chats: {rate:6.1f} tokens/s, {rate / best if best else 1:.2f}x the best at fewer")
        best = max(best, rate)
    await adapter.aclose()


async def two_models(path: Path, threads: int) -> None:
    """Two engines at once, and the same work one engine after the other; in turn, a few times."""
    both = [adapter_of(path, threads), adapter_of(path, threads)]
    for adapter in both:
        await ask(adapter, messages(0), 1)
    ratios = []
    for start in range(100, 400, 100):
        began = time.perf_counter()
        for adapter in both:
            await at_once(adapter, 4, start)
        alone = time.perf_counter() - began
        began = time.perf_counter()
        await asyncio.gather(*(at_once(adapter, 4, start + 50) for adapter in both))
        ratios.append(alone / (time.perf_counter() - began))
    print(f"two models at once: {statistics.median(ratios):.2f}x the speed of one after the other")
    for adapter in both:
        await adapter.aclose()


class Stopwatch:
    """Sums up a method's seconds while it is entered: on the clock, and of its thread's CPU."""

    def __init__(self, owner: type, name: str) -> None:
        self._owner, self._name = owner, name
        self.clock = self.cpu = 0.0
        self.calls = 0

    def __enter__(self) -> Self:
        inner = self._inner = getattr(self._owner, self._name)

        def timed(*args: Any, **named: Any) -> Any:
            began, used = time.perf_counter(), time.thread_time()
            try:
                return inner(*args, **named)
            finally:
                self.clock += time.perf_counter() - began
                self.cpu += time.thread_time() - used
                self.calls += 1

        setattr(self._owner, self._name, timed)
        return self

    def __exit__(self, *_: object) -> None:
        setattr(self._owner, self._name, self._inner)


async def steps(path: Path, threads: int) -> None:
    """What the engine's thread does while 8 chats are answered; shares by CPU: others take turns with it.

    Copying is what llama.cpp takes to put finished chats out of the way, and to bring them back.
    """
    adapter = adapter_of(path, threads)
    await ask(adapter, messages(0), 1)
    with (
        Stopwatch(Serving, "step") as step,
        Stopwatch(NativeContext, "compute") as compute,
        Stopwatch(NativeContext, "draw") as draw,
        Stopwatch(NativeContext, "state") as out,
        Stopwatch(NativeContext, "restore") as back,
    ):
        await at_once(adapter, CHATS, 30)
    copying = out.cpu + back.cpu
    rest = step.cpu - compute.cpu - draw.cpu - copying
    print(f"a step: {1000 * step.clock / step.calls:.1f} ms; sampling {100 * draw.cpu / step.clock:.2f} %, "
          f"copying {100 * copying / step.clock:.2f} %, "
          f"Python {100 * rest / step.clock:.2f} % ({1000 * rest / step.calls:.3f} ms)")  # fmt: skip
    await adapter.aclose()


async def memory(requests: int) -> None:
    """Resident memory after the first and the last tenth of many short requests, on a tiny model."""
    import psutil

    with tempfile.TemporaryDirectory() as folder:
        adapter = adapter_of(write_gguf(Path(folder) / "tiny.gguf", quantised=True), 1)
        sizes = []
        for tenth in range(10):
            for start in range(0, requests // 10, 20):
                said = [[{"role": "user", "content": f"{tenth} {start + n} dog"}] for n in range(20)]
                await asyncio.gather(*(ask(adapter, one, 4) for one in said))
            sizes.append(psutil.Process().memory_info().rss)
        await adapter.aclose()
    print(f"{requests} requests: {sizes[-1] / sizes[0]:.4f}x the resident memory of the first tenth")
