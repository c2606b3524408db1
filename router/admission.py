"""What lets an attempt go: its model's limits, its model's health, and the budgets; in this order.

Whoever waits at a limit goes on asking whether that is still the best thing to do: the policy decides between
waiting and paying more, with what is known of the queue now and not with what was known at first.
"""

from __future__ import annotations

import math
from itertools import islice
from typing import TYPE_CHECKING

from router.booking import reserved_cost
from router.errors import ModelError, ModelHTTPError
from router.failures import judge
from router.limits.waiting import turn

if TYPE_CHECKING:
    from router.core import Core
    from router.limits import Limiter, Seat
    from router.live import LiveAttempt
    from router.routing import Routing

__all__ = [
    "HEADROOM",
    "BudgetRefusedError",
    "admit",
    "give_back",
    "join",
    "may_go",
    "patience",
    "turned_away",
]

#: How many times as long as forecast a request waits before it looks around again.
LONGER = 1.25
#: How many times as long as an answer is predicted to take must be left of a deadline when a wait is over.
HEADROOM = 1.25
#: What share of the time that may be waited a forecast wait must keep within, where there is a deadline.
SURE = 0.8
#: Seconds that a request waits at the least before it looks around again.
LEAST_STAY = 0.25
#: Candidates that a waiting request compares with its own.
MOST_COMPARED = 8
#: Statuses that mean "too much for now", besides 429: the model is well, and its limits are what they were.
_BUSY_STATUSES = frozenset({503, 529})
_RATE_LIMITED = 429


class BudgetRefusedError(ModelError):
    """A budget has no room for an attempt. It is told as a reason, and never raised."""


def join(core: Core, routing: Routing, attempt: LiveAttempt) -> None:
    """An attempt takes its place in the queue of its model's limits, if that has any.

    At once and not when it is first its task's turn: of a thousand requests that arrive together, each one's
    decision sees those before it.
    """
    place = attempt.place
    routing.tried.add(place)
    limiter = core.limiters.get(routing.fleet.names[place])
    if limiter is not None:
        work = routing.estimate(place).work
        attempt.limiter = limiter
        attempt.seat = limiter.join(_tokens(routing, place), core.now(), work, at_once=attempt.hedge)


def _tokens(routing: Routing, place: int) -> float:
    """Tokens that a request is taken for at most."""
    found, features = routing.estimate(place), routing.features
    return found.tokens_in + (features.max_output_tokens or found.tokens_out) * features.choices


async def admit(core: Core, routing: Routing, attempt: LiveAttempt) -> float | None:
    """Waits for a place with the model's limits, then asks its health and the budgets.

    Returns:
        None if the attempt may go; else when it may be tried again, on the core's clock: infinite for never.
    """
    free_at = None
    if attempt.limiter is not None and attempt.seat is not None and not attempt.seat.granted:
        free_at = await _wait(core, routing, attempt, attempt.limiter, attempt.seat)
    if free_at is None:
        free_at = may_go(core, routing, attempt)
    if free_at is None and core.config.budget:
        free_at = await _reserve(core, routing, attempt)
    attempt.admitted = free_at is None
    if free_at is not None:
        give_back(core, attempt)
    return free_at


async def _wait(
    core: Core, routing: Routing, attempt: LiveAttempt, limiter: Limiter, seat: Seat
) -> float | None:
    """Waits for a turn, as long as that is better than what else could be done. Returns as `admit`."""
    place = attempt.place
    latest = core.now() + core.config.recovery.attempt_timeout
    if routing.deadline_at < math.inf:  # who is let go later than that keeps others from being in time
        latest = routing.deadline_at - HEADROOM * routing.estimate(place).work
    while not seat.granted:
        now = core.now()
        if seat.over:  # the queue is full
            return now + max(limiter.wait(seat.tokens, now), LEAST_STAY)
        left = limiter.left(seat, now)
        if now >= latest or left > patience(routing.deadline_at - now, latest - now):
            limiter.leave(seat, now)
            return max(now + left, min(routing.deadline_at, latest))
        if left > _worth_waiting(core, routing, place):
            limiter.leave(seat, now)
            return now + left
        await turn(limiter, seat, core.now, min(now + max(left * LONGER, LEAST_STAY), latest))
    return None


def patience(deadline: float, seconds: float) -> float:
    """Seconds that a forecast wait may be long, of those that may be waited at the most.

    With a deadline, a wait that turns out longer is in vain, and so was that of all who waited behind.
    """
    return SURE * seconds if deadline < math.inf else seconds


def _worth_waiting(core: Core, routing: Routing, place: int) -> float:
    """Seconds after which another candidate would have been the better choice, as things stand now."""
    fleet, ranked, policy = routing.fleet, routing.ranked, routing.rules.policy
    by_time = policy.rank_by == "fastest"
    price = 1.0 if by_time else policy.value_of_time
    if policy.utility is not None or policy.rank_by not in ("objective", "fastest") or not price:
        return math.inf
    quality = fleet.quality(routing.features.task)
    now = core.now()
    shut = core.health.shut(now)

    def value(which: int) -> float:
        """What is minimised, but for the wait at a limit; in seconds."""
        found = routing.estimate(which)
        seconds = found.latency - ranked.now.limits.get(which, 0.0)
        if by_time:
            return seconds
        return seconds + (found.cost - policy.value_of_quality * (quality[which] or 0.0)) / price

    best, own = math.inf, value(place)
    fresh = (other for other in routing.order if other not in routing.tried)
    for other in islice(fresh, MOST_COMPARED):
        name = fleet.names[other]
        if name in shut or other in ranked.late:
            continue
        wait, limiter = 0.0, core.limiters.get(name)
        if limiter is not None:
            wait = limiter.wait(_tokens(routing, other), now)
        best = min(best, value(other) + wait)
    return best - own  # not a number if the own price is unknown: then nothing is better


def may_go(core: Core, routing: Routing, attempt: LiveAttempt) -> float | None:
    """Asks the model's limits, without waiting, and its health. Returns as `admit`."""
    place, now, seat = attempt.place, core.now(), attempt.seat
    name = routing.fleet.names[place]
    if attempt.limiter is not None and seat is not None and not seat.granted:
        left = attempt.limiter.left(seat, now)
        attempt.limiter.leave(seat, now)
        return now + max(left, LEAST_STAY)
    # In place of a model that failed, one is asked that has failures of its own: nothing may be lost.
    last = attempt.number > 0 or len(routing.order) == 1
    despite = last or place in routing.ranked.despite
    if not core.health.starts(name, now, despite=despite) and routing.rules.pinned is None:
        attempt.error = core.health.last_error(name)
        return math.inf
    attempt.started_at = now  # health knows the probe of a failing model by when it began
    attempt.admitted = True
    return None


async def _reserve(core: Core, routing: Routing, attempt: LiveAttempt) -> float | None:
    place, features = attempt.place, routing.features
    name, profile = routing.fleet.names[place], routing.fleet.profiles[place]
    usd = reserved_cost(
        profile, routing.estimate(place), features.max_output_tokens, choices=features.choices
    )
    attempt.admitted = False  # whoever goes away meanwhile has sent nothing
    refusal = await core.ledger.areserve(routing.key(attempt.number), name, features.task, usd)
    if refusal is not None:
        attempt.error = BudgetRefusedError(str(refusal), model=name)
        return math.inf
    attempt.reserved = usd
    return None


def turned_away(core: Core, attempt: LiveAttempt, error: ModelError) -> None:
    """A backend that says that it is too much for now is left alone, before anybody else is let go.

    Told as soon as it is known; the attempt gives its place back later.
    """
    if attempt.limiter is None or attempt.seat is None or not isinstance(error, ModelHTTPError):
        return
    verdict = judge(error)
    limited = error.status_code == _RATE_LIMITED
    if verdict.heals and (limited or error.status_code in _BUSY_STATUSES):
        attempt.limiter.refused(attempt.seat, verdict.retry_after, core.now(), doubt=limited)


def give_back(core: Core, attempt: LiveAttempt) -> None:
    """An attempt is over: its place is free, and its tokens are those that it took. Does no harm twice."""
    limiter, seat, now = attempt.limiter, attempt.seat, core.now()
    if limiter is None or seat is None:
        return
    if attempt.admitted and attempt.usage is not None and attempt.usage_is_reported:
        limiter.settle(seat, attempt.usage.prompt_tokens + attempt.usage.completion_tokens, now)
    limiter.leave(seat, now, sent=attempt.admitted)
