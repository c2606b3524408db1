"""The local adapter: OpenAI's chat completions out of an engine that knows only tokens."""

from __future__ import annotations

import asyncio
import sys
import time
import uuid
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from importlib import import_module
from typing import TYPE_CHECKING

from adapters.local.engine import Engine, Job, ModelFacts
from adapters.local.hearing import Ended, Hearing, Started
from adapters.local.offload import offload
from adapters.local.plan import Plan, plan
from adapters.local.prompting import Prompt, prepared
from adapters.local.reading import Part
from adapters.local.tools import ToolCall
from adapters.local.tracing import Scored
from router.adapter import Call, Load
from router.errors import ModelError
from router.models import LocalModel
from router.request import ChatRequest

if TYPE_CHECKING:
    from openai.types import CompletionUsage
    from openai.types.chat import ChatCompletion, ChatCompletionChunk

    from adapters.local.objects import ChatObjects

__all__ = ["LocalAdapter"]

#: Seconds between two looks at an engine that is ending, and the most to wait for it.
_LOOK, _PATIENCE = 0.005, 2.0


class LocalAdapter:
    """Fulfils `router.adapter.Adapter` for a GGUF model in this process.

    Sampling that the caller leaves open follows the file's `general.sampling.*` metadata, or else llama.cpp's
    own defaults: temperature 0.8, top_k 40, top_p 0.95, min_p 0.05. The end-of-turn token is not counted in
    the usage. An answer whose form is forced (JSON, a required tool) is given without reasoning, unless the
    caller asks for that (`enable_thinking=True`, or a `reasoning_effort` from low on); it counts towards
    `max_tokens`. A call in which that limit ends the answer is given as far as it goes, with "length".

    Log probabilities are those of the model's raw distribution: before biases, penalties, temperature and
    grammars. They come with the tokens of the content alone, and cost nothing where they are not asked for.

    What looks like a control token in a message, a tool's definition or its result is text to the model.

    Args:
        model: What was declared.
        engine: What computes.
    """

    def __init__(self, model: LocalModel, engine: Engine) -> None:
        self._model = model
        self._engine = engine
        self._facts: ModelFacts | None = None
        if model.preload:
            with suppress(ModelError):  # the first request says it again, to somebody who listens
                engine.open(lambda _outcome: None)

    def load(self) -> Load:
        """How busy the engine is."""
        return self._engine.load()

    async def aclose(self) -> None:
        """Stops what is running, ends the engine's thread and frees the model. May be called twice."""
        self._engine.close(wait=0)
        end = time.monotonic() + _PATIENCE
        while not self._engine.ended and time.monotonic() < end:  # noqa: ASYNC110 - it is a thread that ends
            await asyncio.sleep(_LOOK)

    async def complete(self, call: Call) -> ChatCompletion:
        """Answers in one piece. See `router.adapter.Adapter`.

        Raises:
            ModelError: whatever goes wrong.
        """
        texts = {"content": "", "reasoning": ""}
        scores: list[Scored] = []
        calls: list[tuple[str, ToolCall]] = []
        begun = Started(0)
        async with aclosing(self._answer(call)) as answer:
            async for one in answer:
                if isinstance(one, Started):
                    begun = one
                elif isinstance(one, Ended):
                    ended = one
                elif one.call is not None:
                    calls.append((_call_id(), one.call))
                elif one.kind == "arguments":
                    name, last = calls[-1]
                    calls[-1] = (name, ToolCall(last.name, last.arguments + one.text))
                else:
                    texts[one.kind] += one.text
                    scores += one.scores
        return self._objects().completion(
            content=texts["content"],
            reasoning=texts["reasoning"],
            calls=calls,
            finish=_finish(ended, called=bool(calls)),
            usage=_usage(begun, ended),
            scores=[*scores, *ended.scores] if call.request.params.get("logprobs") else None,
        )

    async def stream(self, call: Call) -> AsyncGenerator[ChatCompletionChunk, None]:
        """Answers in chunks; the last one carries the usage. See `router.adapter.Adapter`.

        Raises:
            ModelError: whatever goes wrong.
        """
        first, calls, begun = True, 0, Started(0)
        async with aclosing(self._answer(call)) as answer:
            async for one in answer:
                if isinstance(one, Started):
                    objects, begun = self._objects(), one
                    continue
                if isinstance(one, Ended):
                    yield objects.finish(_finish(one, called=calls > 0), first=first, scores=one.scores)
                    yield objects.usage(_usage(begun, one))
                    return
                if one.call is not None:
                    yield objects.call(_call_id(), calls, one.call, first=first)
                    calls += 1
                elif one.kind == "arguments":
                    yield objects.arguments(calls - 1, one.text)
                else:
                    yield objects.text(one.kind, one.text, first=first, scores=one.scores)
                first = False

    def _objects(self) -> ChatObjects:
        from adapters.local.objects import ChatObjects

        return ChatObjects(
            id=f"chatcmpl-{uuid.uuid4().hex}", created=int(time.time()), model=self._model.name
        )

    async def _answer(self, call: Call) -> AsyncGenerator[Started | Part | Ended, None]:
        """What the engine says about one call, in order. Closing it stops the engine's work."""
        asked = plan(call.request, self._model.name)
        facts = await self._opened()
        if "adapters.local.objects" not in sys.modules:
            await offload(lambda: import_module("adapters.local.objects"))  # openai: half a second
        prompt = await prepared(call.request, asked, facts, self._model, call.prefix)
        hearing, job = self._job(asked, prompt, call)
        self._engine.submit(job)
        over = False
        try:
            while not over:
                for one in await hearing.news():
                    if isinstance(one, Started):
                        call.started()
                    over = isinstance(one, Ended | ModelError)
                    if isinstance(one, ModelError):
                        raise _own(one)
                    yield one
        finally:
            hearing.leave()
            if not over:
                self._engine.cancel(job)

    def _job(self, asked: Plan, prompt: Prompt, call: Call) -> tuple[Hearing, Job]:
        hearing = Hearing(prompt.reader, lambda: self._engine.cancel(job))
        job = Job(
            prompt=prompt.text,
            borders=prompt.borders,
            listener=hearing,
            sampling=asked.sampling,
            max_tokens=asked.max_tokens,
            grammar=prompt.grammar,
            prelude=prompt.prelude,
            logprobs=asked.logprobs,
            visible=prompt.visible,
            session=_session(call.request),
            private=call.private,
        )
        return hearing, job

    async def _opened(self) -> ModelFacts:
        if self._facts is not None:
            return self._facts
        loop = asyncio.get_running_loop()
        told: asyncio.Future[ModelFacts | ModelError] = loop.create_future()

        def settle(outcome: ModelFacts | ModelError) -> None:
            if not told.done():
                told.set_result(outcome)

        def tell(outcome: ModelFacts | ModelError) -> None:
            with suppress(RuntimeError):  # the loop was closed: nobody waits any more
                loop.call_soon_threadsafe(settle, outcome)

        self._engine.open(tell)
        try:
            outcome = await told
        finally:
            if not told.done() or told.cancelled():
                self._engine.give_up(tell)
        if isinstance(outcome, ModelError):
            raise _own(outcome)
        self._facts = outcome
        return outcome


def _session(request: ChatRequest) -> str | None:
    """Whose request it is, as far as OpenAI's fields say: sessions take turns at a busy model."""
    for name in ("prompt_cache_key", "safety_identifier", "user"):
        value = request.params.get(name)
        if isinstance(value, str) and value:
            return value
    return None


def _call_id() -> str:
    return f"call_{uuid.uuid4().hex[:24]}"


def _usage(begun: Started, ended: Ended) -> CompletionUsage:
    from adapters.local.objects import usage_of

    return usage_of(
        begun.prompt_tokens,
        ended.completion_tokens,
        cached_tokens=begun.cached_tokens,
        reasoning_tokens=ended.reasoning_tokens,
    )


def _finish(ended: Ended, *, called: bool) -> str:
    return "tool_calls" if called and ended.finish == "stop" else ended.finish


def _own(error: ModelError) -> ModelError:
    """A copy: one failed load is told to many, and each request puts its own decision on its error."""
    copied = type(error).__new__(type(error))
    copied.args = error.args
    copied.__dict__.update(error.__dict__)
    copied.__cause__ = error.__cause__
    return copied
