"""Goes on with a stream that broke off after its first visible token, on another model, from that character.

The rest of the answer is a run of its own: ranked anew among the models that can go on with what somebody
else began, under the same rules (privacy, capabilities, context, budget, what is left of the deadline), and
driven by an attempt machine of its own. Both runs together are one request: one decision, one line in the
ledger, the cost of both.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from router.calling import call_model
from router.driver import Run
from router.errors import RouterError
from router.live import book, close_source
from router.objective import Rules
from router.planning import machine_of
from router.ranking import rank
from router.situations import situation_of

if TYPE_CHECKING:
    from openai.types.chat import ChatCompletionChunk

    from router.adapter import Adapter, Call
    from router.decision import Features
    from router.fleet import Fleet
    from router.live import LiveAttempt
    from router.ranked import Ranked
    from router.request import ChatRequest
    from router.routing import Routing

__all__ = ["Continuation", "Told", "continuation", "may_be_asked"]

#: Fields of a request that an answer cannot be gone on with: the part that is there and the part to come
#: would not fit together (or not be known to).
_WHOLE_ONLY = ("logprobs", "top_logprobs", "functions", "prediction", "audio", "web_search_options")
_TOKEN_LIMITS = ("max_tokens", "max_completion_tokens")


@dataclass(slots=True)
class Told:
    """What a stream has told its reader so far, besides its text.

    Attributes:
        only_text: Whether nothing was told that another model cannot go on with.
        finished: The choices that told why they end: without that a stream is not whole, however it ends.
        first: Its first chunk: the chunks of one answer have one id.
    """

    only_text: bool = True
    finished: set[int] = field(default_factory=set)
    first: ChatCompletionChunk | None = None

    def see(self, chunk: ChatCompletionChunk) -> None:
        """Takes in a chunk that holds more, or something else, than text."""
        for choice in chunk.choices:
            delta = choice.delta
            called = delta and (delta.tool_calls or delta.function_call or delta.refusal)
            if choice.finish_reason:
                self.finished.add(choice.index or 0)
            if choice.index or choice.finish_reason or called:
                self.only_text = False


def may_be_asked(request: ChatRequest) -> bool:
    """Whether the rest of an answer to this request can be asked for at all."""
    params = request.params
    if request.choices > 1 or any(params.get(name) for name in _WHOLE_ONLY):
        return False
    form = params.get("response_format")
    if isinstance(form, Mapping) and form.get("type") not in (None, "text"):
        return False
    modalities = params.get("modalities")
    return modalities is None or modalities == ["text"]


class Continuation(Run):
    """The rest of an answer: a run within the run of the request that it belongs to."""

    def __init__(self, before: Run, routing: Routing, text: str, told: Told, *, made: int) -> None:
        super().__init__(before.core, routing, machine_of(before.core, routing, made=made))
        self._before = before
        self._text = text
        self._told = told
        before.continued = self

    async def _call(self, attempt: LiveAttempt) -> float:
        """As any run does, but that the model goes on with the text; there may be nothing to add."""
        return await call_model(self.core, self.routing, attempt, begun=self._begun, opened=self._opened)

    def _opened(self, adapter: Adapter, call: Call) -> AsyncGenerator[ChatCompletionChunk, None]:
        return _rest(adapter.stream(replace(call, prefix=self._text)), self._told.first)

    def write_down(self, text: str) -> None:
        """The whole request is over with its last part."""
        self._before.write_down(text or self._text)


async def _rest(
    source: AsyncGenerator[ChatCompletionChunk, None], first: ChatCompletionChunk | None
) -> AsyncGenerator[ChatCompletionChunk, None]:
    """The chunks of a continuation as chunks of the answer that it continues.

    Without the role, which was told, and without what a model thinks before it goes on with a text.
    """
    begun = False
    async with aclosing(source):
        async for chunk in source:
            begun = begun or _goes_on(chunk)
            if not begun and (chunk.choices or chunk.usage is None):
                continue
            if first is not None:
                chunk.id, chunk.created = first.id, first.created
            for choice in chunk.choices:
                if choice.delta and choice.delta.role:
                    choice.delta.role = None  # those who put deltas together would read it twice
            yield chunk


def _goes_on(chunk: ChatCompletionChunk) -> bool:
    for choice in chunk.choices:
        delta = choice.delta
        if choice.finish_reason or (delta and (delta.content or delta.tool_calls or delta.refusal)):
            return True
    return False


async def continuation(run: Run, broken: LiveAttempt, text: str, told: Told) -> Continuation | None:
    """The run for the rest of an answer; None if nobody can give it.

    The broken attempt is closed at its backend and booked first: its money and its place are free again
    for whoever goes on.
    """
    if not text or not told.only_text or not may_be_asked(run.routing.request):
        return None
    made = sum(attempt.outcome != "refused" for attempt in run.attempts)
    most = run.core.config.recovery.max_attempts
    if most is not None and made >= most:
        return None
    book(run.core, run.routing, broken)
    try:
        await close_source(broken)
    finally:
        await run.settle(broken)
    routing = _routing(run, broken, text)
    return None if routing is None else Continuation(run, routing, text, told, made=made)


def _routing(run: Run, broken: LiveAttempt, text: str) -> Routing | None:
    """The decision who goes on: another model, or else the same."""
    from router.tokens import count_text

    routing, core = run.routing, run.core
    now, name = core.now(), routing.fleet.names[broken.place]
    said = count_text(text)
    features = _features(routing.features, said)
    situation = situation_of(core, routing.fleet, features, routing.prompt)
    able = _able(routing.fleet, routing.rules)
    rules = replace(routing.rules, deadline=_left(routing.rules.deadline, routing.deadline_at, now))
    ranked = None
    try:
        others = tuple(other for other in able if other != name)
        if others and rules.pinned is None:
            ranked = rank(routing.fleet, features, replace(rules, models=others), situation)
        if ranked is None or not ranked.order:
            if name not in able or broken.place in situation.shut:
                return None
            ranked = rank(routing.fleet, features, replace(rules, models=(name,)), situation)
            if not ranked.order or not core.retries.withdraw():
                return None
    except RouterError:  # the policy's own utility fails, and it was told so when the request began
        return None
    return _next(routing, ranked, features, said, attempts_before=len(run.attempts))


def _next(
    routing: Routing, ranked: Ranked, features: Features, said: int, *, attempts_before: int
) -> Routing:
    return replace(
        routing,
        request=_shortened(routing.request, said),
        features=features,
        ranked=ranked,
        rules=ranked.rules,
        notes=(),
        attempts_before=attempts_before,
    )


def _able(fleet: Fleet, rules: Rules) -> tuple[str, ...]:
    """The models that can go on with what another one began."""
    return tuple(
        name
        for name, profile in zip(fleet.names, fleet.profiles, strict=True)
        if profile.continues and (rules.models is None or name in rules.models)
    )


def _left(deadline: float | None, deadline_at: float, now: float) -> float | None:
    return None if deadline is None else max(deadline_at - now, 0.0)


def _features(features: Features, said: int) -> Features:
    """The request as it is now: what was said is part of the prompt, and of what was to be expected."""
    most = features.max_output_tokens
    return replace(
        features,
        prompt_tokens=features.prompt_tokens + said,
        expected_output_tokens=max(features.expected_output_tokens - said, 1.0),
        max_output_tokens=None if most is None else max(most - said, 1),
    )


def _shortened(request: ChatRequest, said: int) -> ChatRequest:
    """The same request for an answer that is shorter by what was said, where its length is limited."""
    limits = {name: request.params[name] for name in _TOKEN_LIMITS if name in request.params}
    if not limits:
        return request
    left = {name: max(limit - said, 1) for name, limit in limits.items() if isinstance(limit, int)}
    return replace(request, params={**request.params, **left})
