"""One attempt while it happens, and what it leaves behind."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections import deque
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING

from router.admission import give_back, join
from router.booking import booked_cost, generated_by
from router.decision import Outcome
from router.errors import ModelError, ModelProtocolError, ModelTimeoutError
from router.failures import judge
from router.learning import Sample
from router.limits import Limiter, Seat
from router.paying import BudgetRefusedError
from router.traffic import Ticket
from router.usage import CHARACTERS_PER_TOKEN, Usage, characters_of, judge_usage

if TYPE_CHECKING:
    from openai.types import CompletionUsage
    from openai.types.chat import ChatCompletion, ChatCompletionChunk

    from router.actions import Start
    from router.core import Core
    from router.routing import Routing

__all__ = [
    "LiveAttempt",
    "begin",
    "book",
    "close_source",
    "judged",
    "see",
    "start",
]


@dataclass(slots=True)
class LiveAttempt:
    """One attempt while it happens. Times are seconds on the core's clock."""

    number: int
    place: int
    hedge: bool
    started_at: float
    ticket: Ticket
    cold: bool = False  # nobody waited for the model to load when this one began to
    begun_at: float | None = None
    visible_at: float | None = None
    beside_first: float | None = None  # other calls at work until then, on average
    beside: float = 0.0  # the same until its end
    ended_at: float | None = None
    outcome: Outcome = "running"
    error: ModelError | None = None
    reported: CompletionUsage | Usage | None = None  # as the backend sent it last, unchecked
    usage: Usage | None = None
    usage_is_reported: bool = False
    characters: int = 0  # of the answer as far as it was handed on, for a backend that tells no usage
    cost: Decimal | None = None
    reserved: Decimal | None = None
    limiter: Limiter | None = None
    seat: Seat | None = None  # its place with the limiter
    admitted: bool = False
    refund: int = 0  # to the retry budget, if this is answered
    booked: bool = False
    completion: ChatCompletion | None = None
    source: AsyncGenerator[ChatCompletionChunk, None] | None = None
    buffer: deque[ChatCompletionChunk] = field(default_factory=deque)
    exhausted: bool = False
    task: asyncio.Task[None] | None = None

    @property
    def ttft(self) -> float | None:
        """Seconds to the first visible token; None if there was none or nothing was streamed."""
        return None if self.visible_at is None else self.visible_at - self.started_at


def start(core: Core, routing: Routing, action: Start) -> LiveAttempt:
    """An attempt starts: from now on it counts as load on its model."""
    place = routing.order[action.candidate]
    found, now = routing.estimate(place), core.now()
    name, fleet = routing.fleet.names[place], routing.fleet
    adapter = fleet.loaded_adapter(place) if place in fleet.asked else None
    absent = place in fleet.asked and (adapter is None or not adapter.load().resident)
    if absent:
        core.emptied(fleet, place)
    cold = absent and name not in core.traffic.flows
    _, slow = routing.ranked.now.slowdowns.get(place, (1.0, 1.0))
    due, doubt = found.first, found.first_spread
    if not routing.request.stream:
        due, doubt = found.work, math.hypot(found.spread, found.scatter)
    ticket = core.traffic.start(
        name, found.work, now, shared=found.decode, slow=slow, due=due, doubt=doubt * max(found.tail, 1.0)
    )
    attempt = LiveAttempt(action.attempt, place, action.hedge, now, ticket, cold, refund=action.refund)
    join(core, routing, attempt)
    flow = core.traffic.flows.get(name)
    if flow is not None:
        core.pressure.started(name, flow.count, now)
    return attempt


def begin(core: Core, routing: Routing, attempt: LiveAttempt) -> float:
    """The backend begins with an attempt: loading and its queue are behind it. Returns when that was."""
    if attempt.begun_at is None:
        attempt.begun_at = core.now()
        core.traffic.begin(attempt.ticket, attempt.begun_at)
        if attempt.limiter is not None and attempt.seat is not None:
            attempt.limiter.begun(attempt.seat, attempt.begun_at)
        if routing.prompt is not None:
            core.prefixes.sent(routing.fleet.names[attempt.place], routing.prompt, attempt.begun_at)
    return attempt.begun_at


def see(core: Core, attempt: LiveAttempt) -> float:
    """The first visible token of an attempt is there. Returns when that was."""
    attempt.visible_at = core.now()
    attempt.beside_first = core.traffic.company(attempt.ticket, attempt.visible_at)
    core.traffic.hear(attempt.ticket, attempt.visible_at)
    return attempt.visible_at


def book(core: Core, routing: Routing, attempt: LiveAttempt) -> None:
    """Fixes what an attempt took and cost, frees its place and tells health. Once."""
    if attempt.booked:
        return
    attempt.booked = True
    name, now = routing.fleet.names[attempt.place], core.now()
    if attempt.ended_at is None:
        attempt.ended_at = now
    attempt.beside = core.traffic.company(attempt.ticket, now)
    core.traffic.end(attempt.ticket, now, heard=_was_heard(attempt))
    _take_usage(routing, attempt)
    if attempt.outcome == "succeeded":
        core.pressure.served(name, attempt.ended_at - attempt.started_at, now, attempt.ticket.ahead)
        factor = _factor(routing, attempt)
        core.health.succeeded(name, now, factor=factor, began=attempt.started_at)
        core.retries.deposit(refund=attempt.refund)
    elif attempt.outcome == "cancelled" or isinstance(attempt.error, BudgetRefusedError):
        core.health.released(name, began=attempt.started_at)
        if attempt.begun_at is not None and now >= routing.deadline_at:
            core.pressure.missed(name, now - attempt.started_at)
    give_back(core, attempt)
    if attempt.outcome == "refused" or attempt.usage is None:
        attempt.cost = Decimal(0)
    else:
        worked = attempt.ended_at - (attempt.started_at if attempt.begun_at is None else attempt.begun_at)
        attempt.cost = booked_cost(routing.fleet.profiles[attempt.place], attempt.usage, worked)
    learn_from(core, routing, attempt)


def _was_heard(attempt: LiveAttempt) -> bool:
    """Whether it was the backend that ended an attempt."""
    if attempt.outcome == "failed":
        return not isinstance(attempt.error, ModelTimeoutError)
    return attempt.outcome == "succeeded"


def _factor(routing: Routing, attempt: LiveAttempt) -> float | None:
    """How many times as long an answer took as its model's profile says; loading and queue left out."""
    if attempt.begun_at is None or attempt.ended_at is None:
        return None
    sample = _sample(routing, attempt, attempt.begun_at, attempt.ended_at)
    return routing.fleet.learned.factor(attempt.place, sample)


def judged(routing: Routing, attempt: LiveAttempt) -> tuple[Usage | None, str | None]:
    """The usage that the backend reported, if it can be true of the answer so far; else why it cannot."""
    profile = routing.fleet.profiles[attempt.place]
    return judge_usage(
        attempt.reported,
        expected_prompt=routing.estimate(attempt.place).tokens_in,
        window=profile.context_window,
        most_output=profile.max_output,
        characters=attempt.characters,
        choices=routing.features.choices,
    )


def _take_usage(routing: Routing, attempt: LiveAttempt) -> None:
    """The backend's own usage if it makes sense; else ours, as far as anything was computed."""
    found = routing.estimate(attempt.place)
    if attempt.completion is not None:
        attempt.reported = attempt.completion.usage
        attempt.characters = sum(characters_of(choice.message) for choice in attempt.completion.choices)
    attempt.usage, absurd = judged(routing, attempt)
    attempt.usage_is_reported = attempt.usage is not None
    if absurd is not None:
        name = routing.fleet.names[attempt.place]
        routing.notes = (*routing.notes, f"usage: {name} reported {absurd}: estimated instead")
    if attempt.usage is not None:
        return
    if attempt.characters:
        attempt.usage = Usage(round(found.tokens_in), math.ceil(attempt.characters / CHARACTERS_PER_TOKEN))
    elif attempt.outcome == "succeeded":
        attempt.usage = Usage(round(found.tokens_in), round(found.tokens_out))
    elif attempt.begun_at is not None and (attempt.outcome == "cancelled" or _may_be_billed(attempt)):
        whole = attempt.outcome == "cancelled" and not routing.request.stream
        worked = (attempt.ended_at or attempt.begun_at) - attempt.begun_at
        attempt.usage = Usage(round(found.tokens_in), generated_by(found, worked) if whole else 0)


def _may_be_billed(attempt: LiveAttempt) -> bool:
    """Whether a failed attempt may cost its prompt all the same: the backend was at work when it ended."""
    return attempt.visible_at is not None or isinstance(attempt.error, ModelTimeoutError | ModelProtocolError)


def learn_from(core: Core, routing: Routing, attempt: LiveAttempt) -> None:
    """Takes in what an attempt showed of its model, whatever became of it. Once, when it is booked."""
    fleet, place = routing.fleet, attempt.place
    begun = attempt.begun_at if attempt.begun_at is not None else attempt.started_at
    ended = attempt.ended_at if attempt.ended_at is not None else core.now()
    if attempt.cold and attempt.begun_at is not None:
        core.learn(fleet, place, lambda learned, at: learned.loaded(at, begun - attempt.started_at))
    if attempt.outcome == "failed":
        if attempt.error is not None and judge(attempt.error).blames_model:
            core.learn(fleet, place, lambda learned, at: learned.failed(at, ended - begun, ended))
        return
    if attempt.outcome not in ("succeeded", "cancelled") or attempt.begun_at is None:
        return
    sample = _sample(routing, attempt, begun, ended)
    if attempt.outcome == "cancelled":
        core.learn(fleet, place, lambda learned, at: learned.took_longer(at, sample))
        return
    core.learn(fleet, place, lambda learned, at: learned.learn(at, sample))
    if attempt.usage is not None and attempt.usage_is_reported and routing.prompt is not None:
        core.prefixes.answered(
            fleet.names[place],
            routing.prompt,
            None,
            attempt.usage.cached_tokens,
            attempt.usage.prompt_tokens,
            ended,
            answer_tokens=attempt.usage.completion_tokens,
        )


def _sample(routing: Routing, attempt: LiveAttempt, begun: float, ended: float) -> Sample:
    reported = attempt.usage if attempt.usage_is_reported else None
    features = routing.features
    return Sample(
        task=features.task,
        counted_tokens=features.prompt_tokens,
        prompt_tokens=reported.prompt_tokens if reported else None,
        cached_tokens=reported.cached_tokens if reported else 0,
        completion_tokens=_told_tokens(attempt),
        max_tokens=features.max_output_tokens,
        choices=features.choices,
        ttft=None if attempt.visible_at is None else attempt.visible_at - begun,
        duration=ended - begun,
        beside=attempt.beside,
        beside_first=attempt.beside_first,
        at=ended,
    )


def _told_tokens(attempt: LiveAttempt) -> int | None:
    """Tokens of the answer, by its usage or else by its text; None if neither tells any."""
    told = attempt.usage_is_reported or attempt.characters > 0
    return attempt.usage.completion_tokens if attempt.usage is not None and told else None


async def close_source(attempt: LiveAttempt) -> None:
    """Stops an attempt's stream at its backend."""
    if attempt.source is not None:
        with contextlib.suppress(ModelError, RuntimeError):  # it may be running at this very moment
            await attempt.source.aclose()
