"""The chats of `tests.benchmarks.local`, and the engine that answers them."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

from adapters.local import LocalAdapter, create
from adapters.local.batching import BatchingEngine
from router.adapter import AdapterSettings, Call
from router.models import LocalModel
from router.request import ChatRequest

SYSTEM = (
    "You are the assistant of a company that rents out flats. Be polite and precise, answer in full sentences, "
    "and never promise what the rules below do not allow. Guests may cancel free of charge until two days "
    "before they arrive; later they pay half of the price, and nothing is paid back after arrival. Pets are "
    "welcome in houses, not in flats. Keys are handed over between three and eight in the evening; who comes "
    "later calls the number in the confirmation. Breakfast is not included. Towels and sheets are. Damage is to "
    "be reported at once, with a picture, and small things are forgiven. Complaints about noise go to the host "
    "first and then to us. Invoices are sent by mail on the day of departure. If you do not know an answer, say "
    "so, and offer to ask a colleague, who will call back within a day. "
)
CHATS, TOKENS, N_CTX = 8, 64, 4096


def messages(number: int) -> list[dict[str, Any]]:
    """A chat that nobody had before, with the common beginning."""
    question = f"Guest {number} writes: tell me at length about the flat, the town and the rules."
    return [{"role": "system", "content": SYSTEM}, {"role": "user", "content": question}]


def prompt(number: int) -> str:
    """The same chat as SmolLM2's template renders it."""
    system, user = (message["content"] for message in messages(number))
    return (
        f"<|im_start|>system\n{system}<|im_end|>\n<|im_start|>user\n{user}<|im_end|>\n<|im_start|>assistant\n"
    )


def adapter_of(path: Path, threads: int, **options: Any) -> LocalAdapter:
    """A fresh engine: nothing is cached."""
    declared = LocalModel("smollm2", path=path, n_ctx=N_CTX, threads=threads, max_parallel=32, **options)
    return create(declared, AdapterSettings())


async def warmed(path: Path, threads: int) -> LocalAdapter:
    """A fresh engine, loaded, that has computed once and holds nothing: as `Llama` after its `reset`."""
    adapter = adapter_of(path, threads)
    await ask(adapter, [{"role": "user", "content": "hi"}], 1)
    engine = adapter._engine  # nobody but a benchmark wants an engine to forget
    assert isinstance(engine, BatchingEngine)
    while engine.load().running:  # noqa: ASYNC110 - it is a thread that comes to rest
        await asyncio.sleep(0.001)
    serving = engine._worker._serving
    assert serving is not None
    serving._memory.reclaim(serving._context.cells)
    if serving._loaded.shelf is not None:
        serving._loaded.shelf.clear()
    return adapter


async def ask(adapter: LocalAdapter, said: list[dict[str, Any]], tokens: int) -> tuple[float, int, str]:
    """Seconds to the first token, tokens, text."""
    call = Call(
        request=ChatRequest(messages=said, params={"temperature": 0, "max_tokens": tokens}, stream=True)
    )
    began, first, count, text = time.perf_counter(), 0.0, 0, ""
    async for chunk in adapter.stream(call):
        if chunk.choices and chunk.choices[0].delta.content:
            first = first or time.perf_counter() - began
            text += chunk.choices[0].delta.content
        if chunk.usage:
            count = chunk.usage.completion_tokens
    return first, count, text


async def at_once(adapter: LocalAdapter, chats: int, start: int = 0) -> tuple[float, float]:
    """Tokens/s and p95 time to first token, of chats that all come at once."""
    began = time.perf_counter()
    done = await asyncio.gather(*(ask(adapter, messages(start + number), TOKENS) for number in range(chats)))
    seconds = time.perf_counter() - began
    return sum(count for _, count, _ in done) / seconds, p95([first for first, _, _ in done])


def p95(values: list[float]) -> float:
    """The 95th percentile, by the nearest rank."""
    return sorted(values)[min(len(values) - 1, round(0.95 * len(values) + 0.5) - 1)]
