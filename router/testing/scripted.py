"""A model that answers from a script, without a backend."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import ConfigDict, Field, PrivateAttr

from router.adapter import AdapterSettings, Call, Load
from router.capabilities import with_assumed
from router.declared import Declared
from router.errors import ModelError
from router.models import Model, Price
from router.profile import PriceTable, Profile, Speed, Tier
from router.request import ChatRequest
from router.values import Count, Money, Seconds

if TYPE_CHECKING:
    from openai.types.chat import ChatCompletion, ChatCompletionChunk

__all__ = ["ScriptedAdapter", "ScriptedModel", "Step", "create"]


class Step(Declared):
    """What one call does.

    Attributes:
        text: The answer; in a stream, one chunk per word. One that goes on with an answer that another model
            began is what follows that beginning, if the text begins with it, else the whole text.
        error: Raised instead of answering; in a stream, after `breaks_after` chunks.
        ttft: Seconds before the first token.
        per_token: Seconds between tokens of a stream; an answer in one piece takes as long in all.
        tool_calls: OpenAI-shaped tool calls to answer with.
        finish_reason: Why the answer ends.
        prompt_tokens: What usage says; None: a word is a token.
        completion_tokens: What usage says; None: a word is a token.
        cached_tokens: What usage says.
        usage: Whether usage is reported at all.
        breaks_after: Chunks of a stream after which `error` is raised; 0: before the first.
        hangs: Never answers.
        stalls_after: Chunks of a stream after which nothing comes any more; None: it does not stall.
    """

    model_config: ClassVar[ConfigDict] = ConfigDict(arbitrary_types_allowed=True)

    text: str = "Hello!"
    error: ModelError | type[ModelError] | None = None
    ttft: float = Field(default=0.0, ge=0)
    per_token: float = Field(default=0.0, ge=0)
    tool_calls: tuple[Mapping[str, object], ...] = ()
    finish_reason: Literal["stop", "length", "tool_calls", "content_filter"] = "stop"
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cached_tokens: int = 0
    usage: bool = True
    breaks_after: int = 0
    hangs: bool = False
    stalls_after: int | None = Field(default=None, ge=0)

    @property
    def words(self) -> list[str]:
        """The text in pieces, as a stream gives them."""
        words = self.text.split(" ")
        return [word if place == 0 else f" {word}" for place, word in enumerate(words)] if self.text else []


@dataclass(slots=True)
class Record:
    """What a scripted model was asked; calls are named by their number."""

    asked: list[ChatRequest] = field(default_factory=list)
    prefixes: list[str] = field(default_factory=list)
    cancelled: list[int] = field(default_factory=list)
    running: list[int] = field(default_factory=list)


Scripted = Step | str | ModelError | type[ModelError]


class ScriptedModel(Model):
    """A model whose answers, latencies and failures are written down, for tests without a backend.

    `script` is played in order, a step per call; the last one is repeated for ever. A step is a `Step`, a
    text to answer with, or an error to raise. `asked` holds what it was asked, in order::

        flaky = ScriptedModel("flaky", script=[ModelConnectionError, "Hello!"])

    Attributes:
        script: The steps.
        price: None: unknown.
        context_window: Tokens; None: unknown.
        max_output: The most output tokens; None: unknown.
        private: Whether private requests may go there.
        speed_ttft: What its profile says of its time to the first token, in seconds.
        speed_decode: What its profile says of its output tokens per second.
        load_time: Seconds it takes to load at its first call.
        rpm: Requests per minute that it allows.
        tpm: Tokens per minute that it allows.
        max_concurrency: Requests at once that it allows.
        continues: Whether it goes on with an answer that another model began.
    """

    adapter: ClassVar[str] = "scripted"
    model_config: ClassVar[ConfigDict] = ConfigDict(arbitrary_types_allowed=True)

    script: tuple[Scripted, ...] = ("Hello!",)
    price: Price | None = Price(input=0.0, output=0.0)
    context_window: Count | None = None
    max_output: Count | None = None
    private: bool = False
    speed_ttft: Seconds = 0.1
    speed_decode: Seconds = 100.0
    load_time: Money = 0.0
    rpm: Count | None = None
    tpm: Count | None = None
    max_concurrency: Count | None = None
    continues: bool = True
    _record: Record = PrivateAttr(default_factory=Record)

    if TYPE_CHECKING:  # what may be passed; pydantic turns it into what is declared above

        def __init__(
            self,
            name: str,
            *,
            script: Sequence[Scripted] = ...,
            price: Price | None = ...,
            context_window: int | None = None,
            max_output: int | None = None,
            private: bool = False,
            speed_ttft: float = 0.1,
            speed_decode: float = 100.0,
            load_time: float = 0.0,
            rpm: int | None = None,
            tpm: int | None = None,
            max_concurrency: int | None = None,
            continues: bool = True,
            quality: float | Mapping[str, float] | None = None,
            capabilities: Collection[str] | None = None,
            languages: Collection[str] | None = None,
            licence: str | None = None,
        ) -> None: ...

    @property
    def record(self) -> Record:
        """What happened to it so far."""
        return self._record

    @property
    def asked(self) -> list[ChatRequest]:
        """Every request that reached it, in order."""
        return self._record.asked

    @property
    def prefixes(self) -> list[str]:
        """The beginnings that it was to go on with, for each of `asked`; empty where there was none."""
        return self._record.prefixes

    @property
    def cancelled(self) -> int:
        """How many of its calls were stopped before their end."""
        return len(self._record.cancelled)

    @property
    def running(self) -> int:
        """How many of its calls are under way."""
        return len(self._record.running)

    def profile(self) -> Profile:
        """What it declares."""
        price = None
        if self.price is not None:
            tier = Tier(0, self.price.input, self.price.output, self.price.cached_input)
            price = PriceTable(tiers=(tier,), per_request=self.price.per_request, source="declared")
        return Profile(
            price=price,
            context_window=self.context_window,
            max_output=self.max_output,
            capabilities=with_assumed(self.capabilities),
            languages=self.languages,
            licence=self.licence,
            quality=self.quality_table,
            private=self.private,
            speed=Speed(ttft=self.speed_ttft, prefill=1e6, decode=self.speed_decode, load=self.load_time),
            rpm=self.rpm,
            tpm=self.tpm,
            max_concurrency=self.max_concurrency,
            continues=self.continues,
        )


class ScriptedAdapter:
    """Plays a script. Fulfils `router.adapter.Adapter`."""

    def __init__(self, model: ScriptedModel) -> None:
        self._model = model
        self._calls = 0
        self._loaded = model.load_time == 0
        self._lock = threading.Lock()

    def _begin(self, call: Call) -> tuple[int, Step]:
        with self._lock:
            number, self._calls = self._calls, self._calls + 1
            self._model.record.asked.append(call.request)
            self._model.record.prefixes.append(call.prefix)
            self._model.record.running.append(number)
        scripted = self._model.script[min(number, len(self._model.script) - 1)]
        if isinstance(scripted, str):
            scripted = Step(text=scripted)
        elif not isinstance(scripted, Step):
            scripted = Step(error=scripted)
        if call.prefix and scripted.text.startswith(call.prefix):
            scripted = scripted.model_copy(update={"text": scripted.text[len(call.prefix) :]})
        return number, scripted

    async def _wait(self, call: Call, step: Step) -> None:
        if not self._loaded:
            await asyncio.sleep(self._model.load_time)
            self._loaded = True
        call.started()
        await asyncio.sleep(step.ttft)
        if step.hangs:
            await asyncio.Event().wait()

    def _error(self, step: Step) -> ModelError | None:
        if step.error is None or isinstance(step.error, ModelError):
            return step.error
        kind = step.error
        return kind("as the script says", model=self._model.name)

    async def complete(self, call: Call) -> ChatCompletion:
        """Answers with the next step of the script."""
        number, step = self._begin(call)
        try:
            await self._wait(call, step)
            if (error := self._error(step)) is not None:
                raise error
            await asyncio.sleep(step.per_token * len(step.words))
            return _completion(self._model.name, number, call.request, step)
        except (asyncio.CancelledError, GeneratorExit):
            self._model.record.cancelled.append(number)
            raise
        finally:
            self._model.record.running.remove(number)

    async def stream(self, call: Call) -> AsyncGenerator[ChatCompletionChunk, None]:
        """Streams the next step of the script: a role, a chunk per word, the finish reason, usage."""
        number, step = self._begin(call)
        try:
            await self._wait(call, step)
            for place, chunk in enumerate(_chunks(self._model.name, number, call.request, step)):
                error = self._error(step)
                if error is not None and place >= step.breaks_after:
                    raise error
                if place == step.stalls_after:
                    await asyncio.Event().wait()
                if place:
                    await asyncio.sleep(step.per_token)
                yield chunk
        except (asyncio.CancelledError, GeneratorExit):
            self._model.record.cancelled.append(number)
            raise
        finally:
            self._model.record.running.remove(number)

    def load(self) -> Load:
        """How many calls are under way."""
        return Load(resident=self._loaded)

    async def aclose(self) -> None:
        """Holds nothing that could be freed."""


def create(model: Model, settings: AdapterSettings) -> ScriptedAdapter:
    """The adapter of a scripted model."""
    del settings
    if not isinstance(model, ScriptedModel):
        raise TypeError(f"the scripted adapter serves ScriptedModel, not {type(model).__name__}")
    return ScriptedAdapter(model)


def _usage(request: ChatRequest, step: Step) -> dict[str, object]:
    prompt = step.prompt_tokens
    if prompt is None:
        prompt = sum(len(str(message.get("content") or "").split()) for message in request.messages)
    completion = len(step.words) if step.completion_tokens is None else step.completion_tokens
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": step.cached_tokens},
    }


def _completion(name: str, number: int, request: ChatRequest, step: Step) -> ChatCompletion:
    from openai.types.chat import ChatCompletion

    message = {"role": "assistant", "content": step.text or None, "tool_calls": list(step.tool_calls) or None}
    return ChatCompletion.construct(
        id=f"scripted-{number}",
        object="chat.completion",
        created=0,
        model=name,
        choices=[{"index": 0, "finish_reason": step.finish_reason, "message": message, "logprobs": None}],
        usage=_usage(request, step) if step.usage else None,
    )


def _chunks(name: str, number: int, request: ChatRequest, step: Step) -> Iterator[ChatCompletionChunk]:
    from openai.types.chat import ChatCompletionChunk

    def chunk(choices: list[object], usage: dict[str, object] | None = None) -> ChatCompletionChunk:
        return ChatCompletionChunk.construct(
            id=f"scripted-{number}",
            object="chat.completion.chunk",
            created=0,
            model=name,
            choices=choices,
            usage=usage,
        )

    def delta(fields: dict[str, object], finish_reason: str | None = None) -> list[object]:
        return [{"index": 0, "delta": fields, "finish_reason": finish_reason}]

    yield chunk(delta({"role": "assistant", "content": ""}))
    for word in step.words:
        yield chunk(delta({"content": word}))
    for place, call in enumerate(step.tool_calls):
        yield chunk(delta({"tool_calls": [{"index": place, **call}]}))
    yield chunk(delta({}, step.finish_reason))
    if step.usage:
        yield chunk([], _usage(request, step))
