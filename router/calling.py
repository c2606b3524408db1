"""One call of one model: from its adapter to its answer, or to the first token of its stream."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, Callable, Iterable
from typing import TYPE_CHECKING, TypeAlias

from router.adapter import Call
from router.errors import ModelProtocolError
from router.live import LiveAttempt, see

if TYPE_CHECKING:
    from openai.types.chat import ChatCompletionChunk

    from router.adapter import Adapter
    from router.core import Core
    from router.routing import Routing

__all__ = ["call_model"]

Chunks: TypeAlias = "AsyncGenerator[ChatCompletionChunk, None]"

#: Seconds that an adapter is given at the least: the deadline itself is the attempt machine's business.
LEAST_TIMEOUT = 0.001


def _opened(adapter: Adapter, call: Call) -> Chunks:
    return adapter.stream(call)


async def call_model(
    core: Core,
    routing: Routing,
    attempt: LiveAttempt,
    *,
    begun: Callable[[LiveAttempt], None],
    opened: Callable[[Adapter, Call], Chunks] = _opened,
    made: Iterable[LiveAttempt] | None = None,
) -> float:
    """Calls the model of an attempt that was let go. Returns when its answer or its first token was there.

    Args:
        core: Of the router.
        routing: The decision.
        attempt: Takes the answer, or the stream and what was read of it.
        begun: Told of the attempt when the backend begins.
        opened: Opens the stream, if one was asked for.
        made: The attempts of the request, this one included: a stream that says nothing is a failure while
            there are other models to ask. None: there may be nothing to say.

    Raises:
        ModelError: if there is no answer.
        InvalidRequestError: if the request can be sent to no model.
        ConfigurationError: if the adapter cannot be built.
    """
    adapter = await _adapter(routing, attempt.place)
    call = Call(
        request=routing.request,
        timeout=_time_left(core, routing),
        started=lambda: begun(attempt),
        private=routing.rules.private,
    )
    attempt.started_at = core.now()
    if routing.request.stream:
        return await _read_to_first_token(core, routing, attempt, opened(adapter, call), made)
    attempt.completion = await adapter.complete(call)
    attempt.ended_at = core.now()
    return attempt.ended_at


async def _adapter(routing: Routing, place: int) -> Adapter:
    """The adapter of a candidate, built on a worker thread if this is its first use."""
    loaded = routing.fleet.loaded_adapter(place)
    return await asyncio.to_thread(routing.fleet.adapter, place) if loaded is None else loaded


def _time_left(core: Core, routing: Routing) -> float | None:
    left = routing.deadline_at - core.now()
    return None if left == math.inf else max(left, LEAST_TIMEOUT)


async def _read_to_first_token(
    core: Core,
    routing: Routing,
    attempt: LiveAttempt,
    source: Chunks,
    made: Iterable[LiveAttempt] | None,
) -> float:
    """Reads a stream until something can be shown. Returns when that was, or when a legal silence ended."""
    from router.completion import is_visible

    attempt.source = source
    async for chunk in source:
        attempt.buffer.append(chunk)
        if is_visible(chunk):
            return see(core, attempt)
    name = routing.fleet.names[attempt.place]
    if not any(choice.finish_reason for chunk in attempt.buffer for choice in chunk.choices):
        raise ModelProtocolError("the stream ended without a finish reason", model=name)
    if made is not None and _is_silence(routing, attempt, made):
        raise ModelProtocolError("the stream ended before it said anything", model=name)
    attempt.exhausted = True  # a legal answer without a visible token, such as an empty one
    return core.now()


def _is_silence(routing: Routing, attempt: LiveAttempt, made: Iterable[LiveAttempt]) -> bool:
    """Whether a stream that showed nothing is a failure: while there is another model to ask, it is.

    Unless its tokens ran out, which hidden reasoning can have taken.
    """
    if any(choice.finish_reason == "length" for chunk in attempt.buffer for choice in chunk.choices):
        return False
    asked = {other.place for other in made}
    return any(place not in asked for place in routing.order)
