"""The local adapter: OpenAI's chat completions out of an engine that knows only tokens."""

from __future__ import annotations

import asyncio
import sys
import time
import uuid
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from dataclasses import replace
from importlib import import_module
from typing import TYPE_CHECKING

from adapters.local.choices import Gathered, Tokens, Told
from adapters.local.engine import Engine, Job, ModelFacts
from adapters.local.hearing import Ended, Hearing, Started
from adapters.local.offload import offload
from adapters.local.plan import Plan, plan
from adapters.local.prompting import Prompt, prepared
from adapters.local.reading import Part
from router.adapter import Call, Load
from router.errors import ModelError
from router.models import LocalModel
from router.request import ChatRequest

if TYPE_CHECKING:
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

    Several choices (`n`) share the prompt; the one with index i is drawn with the caller's seed + i.

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
        choices, tokens = [Gathered(index) for index in range(call.request.choices)], Tokens()
        async with aclosing(self._answers(call)) as answers:
            async for index, one in answers:
                tokens.hear(one)
                if not isinstance(one, Started):
                    choices[index].hear(one)
        objects, scored = self._objects(), bool(call.request.params.get("logprobs"))
        return objects.completion([one.built(objects, scored=scored) for one in choices], tokens.usage())

    async def stream(self, call: Call) -> AsyncGenerator[ChatCompletionChunk, None]:
        """Answers in chunks; the last one carries the usage. See `router.adapter.Adapter`.

        Raises:
            ModelError: whatever goes wrong.
        """
        choices, tokens = [Told(index) for index in range(call.request.choices)], Tokens()
        objects: ChatObjects | None = None
        async with aclosing(self._answers(call)) as answers:
            async for index, one in answers:
                objects = objects or self._objects()
                tokens.hear(one)
                if not isinstance(one, Started):
                    yield choices[index].chunk(objects, one)
        if objects is not None:
            yield objects.usage(tokens.usage())

    def _objects(self) -> ChatObjects:
        from adapters.local.objects import ChatObjects

        return ChatObjects(
            id=f"chatcmpl-{uuid.uuid4().hex}", created=int(time.time()), model=self._model.name
        )

    async def _answers(self, call: Call) -> AsyncGenerator[tuple[int, Started | Part | Ended], None]:
        """What the engine says about one call, in order, and of which choice. Closing it stops the work."""
        asked = plan(call.request, self._model.name)
        facts = await self._opened()
        if "adapters.local.objects" not in sys.modules:
            await offload(lambda: import_module("adapters.local.objects"))  # openai: half a second
        prompt = await prepared(call.request, asked, facts, self._model, call.prefix)
        arrived = asyncio.Event()
        under_way: dict[int, tuple[Hearing, Job]] = {}
        try:
            for index in range(call.request.choices):
                hearing, job = self._job(asked, prompt, call, index, arrived)
                self._engine.submit(job)
                under_way[index] = hearing, job
            while under_way:
                await arrived.wait()
                arrived.clear()
                for index, (hearing, _) in tuple(under_way.items()):
                    for one in hearing.take():
                        if isinstance(one, Ended | ModelError):
                            hearing.leave()
                            del under_way[index]
                        if isinstance(one, ModelError):
                            raise _own(one)
                        if isinstance(one, Started):
                            call.started()
                        yield index, one
        finally:
            for hearing, job in under_way.values():
                hearing.leave()
                self._engine.cancel(job)

    def _job(
        self, asked: Plan, prompt: Prompt, call: Call, index: int, arrived: asyncio.Event
    ) -> tuple[Hearing, Job]:
        hearing = Hearing(prompt.reader(), lambda: self._engine.cancel(job), arrived)
        sampling = asked.sampling
        if index and sampling.seed is not None:  # the same seed again would give the same answer again
            sampling = replace(sampling, seed=sampling.seed + index)
        job = Job(
            prompt=prompt.text,
            borders=prompt.borders,
            listener=hearing,
            sampling=sampling,
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


def _own(error: ModelError) -> ModelError:
    """A copy: one failed load is told to many, and each request puts its own decision on its error."""
    copied = type(error).__new__(type(error))
    copied.args = error.args
    copied.__dict__.update(error.__dict__)
    copied.__cause__ = error.__cause__
    return copied
