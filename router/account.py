"""What a request tells of itself, while it runs and when it is over: its decision, with the attempts made."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from router.decision import Attempt, Decision

if TYPE_CHECKING:
    from router.live import LiveAttempt
    from router.routing import Routing

__all__ = ["account_of"]


def account_of(
    routing: Routing,
    attempts: Iterable[LiveAttempt],
    winner: LiveAttempt | None,
    *,
    rest: Decision | None = None,
    goes_on: bool = False,
) -> Decision:
    """The decision as it stands now.

    Args:
        routing: What was decided.
        attempts: Those that were made, in order, refused ones among them.
        winner: The one whose answer the caller has, or reads.
        rest: The decision about the rest of a stream that broke, if somebody was asked for it.
        goes_on: Whether somebody gives it: then that model is the one that answers.
    """
    names = routing.fleet.names
    # Waiting for a rate limit is no attempt: nothing was sent.
    told = (a for a in attempts if a.outcome != "refused" or a.error is not None)
    made = tuple(_snapshot(names[a.place], a) for a in told)
    model = names[winner.place] if winner is not None else None
    if rest is None:
        return routing.decision(model=model, attempts=made)
    whole = routing.decision(model=rest.model if goes_on else model, attempts=made + rest.attempts)
    return replace(whole, notes=whole.notes + rest.notes)


def _snapshot(name: str, attempt: LiveAttempt) -> Attempt:
    """An attempt as the decision shows it."""
    usage = attempt.usage
    source: Literal["usage", "estimate"] | None = None
    if attempt.booked and attempt.cost is not None:
        source = "usage" if attempt.usage_is_reported else "estimate"
    return Attempt(
        model=name,
        outcome=attempt.outcome,
        ttft=attempt.ttft,
        waited=None if attempt.begun_at is None else attempt.begun_at - attempt.started_at,
        outstanding=round(attempt.beside) if attempt.booked else attempt.ticket.ahead,
        duration=None if attempt.ended_at is None else attempt.ended_at - attempt.started_at,
        cost=attempt.cost if attempt.booked else None,
        cost_source=source,
        error=attempt.error,
        prompt_tokens=usage.prompt_tokens if usage else None,
        completion_tokens=usage.completion_tokens if usage else None,
        cached_tokens=usage.cached_tokens if usage else None,
        hedge=attempt.hedge,
    )
