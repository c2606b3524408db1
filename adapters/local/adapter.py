"""The local adapter: OpenAI's chat completions out of an engine that knows only tokens."""

from __future__ import annotations

import asyncio
import sys
import time
import uuid
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

from adapters.local.chat import template_messages
from adapters.local.engine import Engine, Job, ModelFacts
from adapters.local.hearing import Ended, Hearing, Started
from adapters.local.offload import offload
from adapters.local.plan import Plan, grammar_of, plan
from adapters.local.reading import Part, Reader
from adapters.local.templates import CHATML, ChatTemplate
from adapters.local.text import StopText
from adapters.local.tools import ToolCall, ToolFormat, format_of, section
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


@dataclass(frozen=True, slots=True)
class _Prompt:
    """A request, made ready for an engine and for reading what comes of it."""

    text: str
    grammar: str | None
    form: ToolFormat | None
    thinks: bool
    thinking: bool


class LocalAdapter:
    """Fulfils `router.adapter.Adapter` for a GGUF model in this process.

    Sampling that the caller leaves open follows the file's `general.sampling.*` metadata, or else llama.cpp's
    own defaults: temperature 0.8, top_k 40, top_p 0.95, min_p 0.05. The end-of-turn token is not counted in
    the usage. An answer whose form is forced (JSON, a required tool) is given without reasoning.

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
        calls: list[tuple[str, ToolCall]] = []
        prompt_tokens = 0
        async with aclosing(self._answer(call)) as answer:
            async for one in answer:
                if isinstance(one, Started):
                    prompt_tokens = one.prompt_tokens
                elif isinstance(one, Ended):
                    ended = one
                elif one.call is not None:
                    calls.append((_call_id(), one.call))
                else:
                    texts[one.kind] += one.text
        from adapters.local.objects import usage_of

        return self._objects().completion(
            content=texts["content"],
            reasoning=texts["reasoning"],
            calls=calls,
            finish=_finish(ended, called=bool(calls)),
            usage=usage_of(prompt_tokens, ended.completion_tokens),
        )

    async def stream(self, call: Call) -> AsyncGenerator[ChatCompletionChunk, None]:
        """Answers in chunks; the last one carries the usage. See `router.adapter.Adapter`.

        Raises:
            ModelError: whatever goes wrong.
        """
        first, calls, prompt_tokens = True, 0, 0
        async with aclosing(self._answer(call)) as answer:
            async for one in answer:
                if isinstance(one, Started):
                    from adapters.local.objects import usage_of

                    objects, prompt_tokens = self._objects(), one.prompt_tokens
                    continue
                if isinstance(one, Ended):
                    yield objects.finish(_finish(one, called=calls > 0), first=first)
                    yield objects.usage(usage_of(prompt_tokens, one.completion_tokens))
                    return
                if one.call is not None:
                    yield objects.call(_call_id(), calls, one.call, first=first)
                    calls += 1
                else:
                    yield objects.text(one.kind, one.text, first=first)
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
        prompt = await self._prompt(call.request, asked, facts)
        hearing, job = self._job(asked, prompt)
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

    def _job(self, asked: Plan, prompt: _Prompt) -> tuple[Hearing, Job]:
        reader = Reader(
            thinks=prompt.thinks,
            thinking=prompt.thinking,
            tools=prompt.form,
            most_calls=None if asked.several else 1,
        )
        hearing = Hearing(StopText(asked.stops), reader, lambda: self._engine.cancel(job))
        job = Job(
            prompt=prompt.text,
            listener=hearing,
            sampling=asked.sampling,
            max_tokens=asked.max_tokens,
            grammar=prompt.grammar,
            visible=_THINK_TOKENS | (prompt.form.visible if prompt.form else frozenset()),
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
        outcome = await told
        if isinstance(outcome, ModelError):
            raise _own(outcome)
        self._facts = outcome
        return outcome

    async def _prompt(self, request: ChatRequest, asked: Plan, facts: ModelFacts) -> _Prompt:
        name = self._model.name
        source = self._model.chat_template or facts.chat_template or CHATML
        form, presents = format_of(source, asked.tools)
        grammar = grammar_of(asked, form, name)
        shown = asked.definitions if presents else ()
        variables = {
            "messages": template_messages(
                request.messages,
                model=name,
                presents_tools=presents,
                section=section(asked.definitions) if asked.definitions and not presents else "",
            ),
            "tools": list(shown) or None,
            "add_generation_prompt": True,
            "bos_token": facts.bos,
            "eos_token": facts.eos,
            # A forced form leaves no room for thoughts: where a template can say so, it does.
            **({"enable_thinking": False} if asked.constrained else {}),
            **asked.template_kwargs,
        }
        text = await ChatTemplate(source, model=name).render(variables)
        thinks = "</think>" in source
        thinking = thinks and text.rstrip().endswith("<think>")
        if thinking and asked.constrained:
            text = f"{text.rstrip()}\n\n</think>\n\n"
        return _Prompt(
            text=text,
            grammar=grammar,
            form=form if asked.tools else None,
            thinks=thinks and not asked.constrained,
            thinking=thinking and not asked.constrained,
        )


_THINK_TOKENS = frozenset({"<think>", "</think>"})


def _call_id() -> str:
    return f"call_{uuid.uuid4().hex[:24]}"


def _finish(ended: Ended, *, called: bool) -> str:
    return "tool_calls" if called and ended.finish == "stop" else ended.finish


def _own(error: ModelError) -> ModelError:
    """A copy: one failed load is told to many, and each request puts its own decision on its error."""
    copied = type(error).__new__(type(error))
    copied.args = error.args
    copied.__dict__.update(error.__dict__)
    copied.__cause__ = error.__cause__
    return copied
