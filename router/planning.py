"""What the attempt machine may do for one decision: the plan, with its hooks into what is known right now."""

from __future__ import annotations

from typing import TYPE_CHECKING

from router.attempts import AttemptMachine
from router.backoff import Backoff
from router.overdue import (
    doubts,
    is_mute,
    is_outpaced,
    is_to_blame,
    last_call,
    last_wait,
    overdue_after,
    stays_shut,
)
from router.plan import Plan

if TYPE_CHECKING:
    from router.core import Core
    from router.routing import Routing

__all__ = ["machine_of"]


def machine_of(core: Core, routing: Routing, *, made: int = 0) -> AttemptMachine:
    """The attempt machine for a decision; `made`: so many attempts of the same request were made."""
    recovery, policy, options = core.config.recovery, core.config.policy, routing.options
    most = recovery.max_attempts - made if recovery.max_attempts else _most_attempts(routing)
    backoff: list[Backoff] = []

    def strategies() -> Backoff:
        if not backoff:
            backoff.append(Backoff(most))
        return backoff[0]

    hedge = policy.hedge if options.hedge is None else options.hedge
    if made or routing.rules.pinned is not None:
        hedge = False
    return AttemptMachine(
        Plan(
            names=routing.ranked.names,
            stream=routing.request.stream,
            stop=lambda attempts: strategies().spent(attempts),
            attempt_timeout=recovery.attempt_timeout,
            ttft_timeout=recovery.ttft_timeout,
            deadline=routing.deadline_at,
            patience=recovery.attempt_timeout,
            hedge_after=_hedge_after(core, routing) if hedge else (),
            wait=lambda attempts, error: strategies().wait(attempts, error),
            may_retry=core.retries.withdraw,
            doubtful=lambda candidate: doubts(core, routing, candidate),
            shut=lambda candidate, at: stays_shut(core, routing, candidate, at),
            overdue=lambda candidate: overdue_after(routing, candidate),
            last_call=lambda candidate, left: last_call(routing, candidate, left),
            last_wait=lambda candidate, left: last_wait(routing, candidate, left),
            silent=lambda candidate, since, last: is_mute(core, routing, candidate, since, last=last),
            outpaced=lambda candidate: is_outpaced(core, routing, candidate),
            to_blame=lambda candidate, began: is_to_blame(core, routing, candidate, began),
        )
    )


def _most_attempts(routing: Routing) -> int:
    """Attempts that a request may make unless the app says how many: one more than there are models to ask.

    And as many again of those that have answered before: where one attempt in seven fails everywhere, one
    request in two thousand would be lost otherwise. What is more than one for each model draws on the retry
    budget, so that an outage is not made worse.
    """
    samples = routing.fleet.learned.samples
    answered = sum(samples[place] > 0 for place in routing.order)
    return len(routing.order) + 1 + (answered + 1 if answered else 0)


def _hedge_after(core: Core, routing: Routing) -> tuple[float, ...]:
    """When each candidate is late: its time at the policy's confidence."""
    found = [routing.estimate(place) for place in routing.order]
    confidence = core.config.policy.confidence
    if routing.request.stream:
        return tuple(one.first_within(confidence) for one in found)
    return tuple(one.work_within(confidence) for one in found)
