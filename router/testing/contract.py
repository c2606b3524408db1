"""The contract of an adapter, as checks that any implementation can be run through."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from router.adapter import Adapter, Call
from router.request import ChatRequest
from router.usage import read_usage

if TYPE_CHECKING:
    from openai.types.chat import ChatCompletion, ChatCompletionChunk

__all__ = ["check_adapter"]

#: Seconds that a cancelled call may take to end.
PATIENCE = 10.0


async def check_adapter(make: Callable[[], Adapter], request: ChatRequest | None = None) -> None:
    """Runs an adapter through the contract of `router.adapter`.

    For a model of your own::

        from router.adapter import AdapterSettings
        from router.loading import load_adapter

        async def test_my_adapter() -> None:
            await check_adapter(lambda: load_adapter(MyModel("mine"), AdapterSettings()))

    The backend behind it must be able to answer `request` several times, and should answer at some length.

    Args:
        make: Builds a fresh adapter.
        request: What to ask; by default a greeting.

    Raises:
        AssertionError: saying which part of the contract is broken.
    """
    asked = request or ChatRequest(
        messages=[{"role": "user", "content": "Say hello."}], params={"max_tokens": 16}
    )
    streamed = ChatRequest(messages=asked.messages, params=asked.params, stream=True, include_usage=True)
    adapter = make()
    try:
        await _check_completion(adapter, asked)
        await _check_stream(adapter, streamed)
        await _check_several_at_once(adapter, asked)
        await _check_closing_a_stream(adapter, streamed)
        await _check_cancelling(adapter, asked)
        await _check_other_loop(adapter, asked)
        _check_load(adapter)
    finally:
        await adapter.aclose()
    await adapter.aclose()  # twice does no harm


def _demand(holds: object, what: str) -> None:
    if not holds:
        raise AssertionError(f"the adapter breaks its contract: {what}")


async def _check_completion(adapter: Adapter, request: ChatRequest) -> None:
    from openai.types.chat import ChatCompletion

    starts: list[int] = []
    completion = await adapter.complete(Call(request=request, started=lambda: starts.append(1)))
    _demand(isinstance(completion, ChatCompletion), "complete() gives openai's ChatCompletion")
    _check_answer(completion)
    _demand(starts, "complete() calls call.started() when the backend begins")


def _check_answer(completion: ChatCompletion) -> None:
    _demand(completion.choices, "a completion has at least one choice")
    choice = completion.choices[0]
    _demand(choice.finish_reason, "a choice has a finish reason")
    message = choice.message
    shown = message.content is not None or message.tool_calls or message.refusal
    _demand(shown, "a message has content, tool calls or a refusal")
    if completion.usage is not None:
        _demand(read_usage(completion.usage), "usage is plausible")
    _demand(completion.model_dump_json(), "a completion can be dumped")


async def _check_stream(adapter: Adapter, request: ChatRequest) -> None:
    from openai.types.chat import ChatCompletionChunk

    starts: list[int] = []
    chunks = [
        chunk async for chunk in adapter.stream(Call(request=request, started=lambda: starts.append(1)))
    ]
    _demand(chunks, "stream() gives chunks")
    _demand(all(isinstance(chunk, ChatCompletionChunk) for chunk in chunks), "chunks are openai's")
    _demand(starts, "stream() calls call.started() when the backend begins")
    _demand(_finish(chunks), "a stream ends with a finish reason")
    _demand(all(chunk.model_dump_json() for chunk in chunks), "chunks can be dumped")
    for chunk in chunks:
        if chunk.usage is not None:
            _demand(read_usage(chunk.usage), "a stream's usage is plausible")


def _finish(chunks: list[ChatCompletionChunk]) -> str | None:
    reasons = [choice.finish_reason for chunk in chunks for choice in chunk.choices if choice.finish_reason]
    return reasons[-1] if reasons else None


async def _check_several_at_once(adapter: Adapter, request: ChatRequest) -> None:
    for completion in await asyncio.gather(*(adapter.complete(Call(request=request)) for _ in range(4))):
        _check_answer(completion)


async def _check_closing_a_stream(adapter: Adapter, request: ChatRequest) -> None:
    source = adapter.stream(Call(request=request))
    async for _chunk in source:
        break
    await asyncio.wait_for(source.aclose(), PATIENCE)
    _check_answer(await adapter.complete(Call(request=request)))


async def _check_cancelling(adapter: Adapter, request: ChatRequest) -> None:
    task = asyncio.create_task(adapter.complete(Call(request=request)))
    await asyncio.sleep(0)
    task.cancel()
    done, _ = await asyncio.wait([task], timeout=PATIENCE)
    _demand(done, "a cancelled call ends")
    _check_answer(await adapter.complete(Call(request=request)))


async def _check_other_loop(adapter: Adapter, request: ChatRequest) -> None:
    """From another thread and its own event loop, while this one goes on."""
    answered = await asyncio.to_thread(lambda: asyncio.run(_one(adapter, request)))
    _check_answer(answered)


async def _one(adapter: Adapter, request: ChatRequest) -> ChatCompletion:
    return await adapter.complete(Call(request=request))


def _check_load(adapter: Adapter) -> None:
    load = adapter.load()
    _demand(load.running == 0 and load.waiting == 0, "load() is idle when nothing runs")
    _demand(load.resident, "load() says that the model is loaded once it has answered")
