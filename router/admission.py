"""What lets an attempt go: its model's limits, its model's health, and the budgets; in this order.

Whoever waits at a limit goes on asking whether that is still the best thing to do: the policy decides between
waiting and paying more, with what is known of the queue now and not with what was known at first.
"""

from __future__ import annotations

import math
from itertools import islice
from typing import TYPE_CHECKING

from router.errors import ModelError, ModelHTTPError
from router.failures import judge
from router.limits.waiting import turn
from router.limits.window import MINUTE
from router.objective import MEASURED_AFTER
from router.paying import (
    HEADROOM,
    MOST_COMPARED,
    affords_now,
    patience_for_money,
    pay,
    refuse,
)

if TYPE_CHECKING:
    from router.core import Core
    from router.fleet import Fleet
    from router.limits import Limiter, Seat
    from router.live import LiveAttempt
    from router.routing import Routing

__all__ = [
    "admit",
    "give_back",
    "is_noise",
    "is_proven",
    "join",
    "may_go",
    "patience",
    "turned_away",
]

#: How many times as long as forecast a request waits before it looks around again.
LONGER = 1.25
#: What share of the time that may be waited a forecast wait must keep within, where there is a deadline.
SURE = 0.8
#: Seconds that a request waits at the least before it looks around again.
LEAST_STAY = 0.25
#: The same for money, in seconds: what is being settled at this moment is worth that.
LEAST_PATIENCE = 0.01
#: Statuses that mean "too much for now", besides 429: the model is well, and its limits are what they were.
_BUSY_STATUSES = frozenset({503, 529})
_RATE_LIMITED = 429
#: Seconds for which a model that answers others is waited for in the queue of its limits, and not set aside.
SHORT = 10.0


def join(core: Core, routing: Routing, attempt: LiveAttempt) -> None:
    """An attempt takes its place in the queue of its model's limits, if that has any.

    At once and not when it is first its task's turn: of a thousand requests that arrive together, each one's
    decision sees those before it.
    """
    place = attempt.place
    routing.tried.add(place)
    name = routing.fleet.names[place]
    limiter = core.limiters.get(name, routing.features.task)
    if limiter is not None and limiter.is_idle:
        core.limiters.forget(name)
        limiter = None
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
    free_at = await _at_the_model(core, routing, attempt)
    if free_at is None and core.config.budget:
        free_at = await _with_money(core, routing, attempt)
    attempt.admitted = free_at is None
    if free_at is not None:
        give_back(core, attempt)
    return free_at


async def _at_the_model(core: Core, routing: Routing, attempt: LiveAttempt) -> float | None:
    """Waits for a place with the model's limits, and asks its health. Returns as `admit`."""
    free_at = None
    if attempt.limiter is not None and attempt.seat is not None and not attempt.seat.granted:
        free_at = await _wait(core, routing, attempt, attempt.limiter, attempt.seat)
    return may_go(core, routing, attempt) if free_at is None else free_at


async def _with_money(core: Core, routing: Routing, attempt: LiveAttempt) -> float | None:
    """Sets money aside for one that has its place at the model. Returns as `admit`.

    If it must wait for the money, its place is for others meanwhile, and it lines up for one again with the
    money in hand: nobody who has a place waits for money, so that all who have money come to a place.
    """
    attempt.admitted = False  # whoever goes away meanwhile has sent nothing
    refusal = await pay(core, routing, attempt)
    if refusal is None:
        return None
    if refusal.final or attempt.hedge:  # company for a late attempt is of no use later
        refuse(routing, attempt, refusal)
        return math.inf if refusal.final else core.now() + LEAST_STAY
    now = core.now()
    most = patience_for_money(core, routing, attempt.place, now)
    worth = _worth_waiting(core, routing, attempt.place)
    give_back(core, attempt)
    core.health.released(routing.fleet.names[attempt.place], began=attempt.started_at)
    core.traffic.end(attempt.ticket, now)  # what waits here is no load there
    elsewhere = worth < most  # not a number if nothing is known to be better
    refusal = await pay(core, routing, attempt, patience=max(worth, LEAST_PATIENCE) if elsewhere else most)
    if refusal is not None:
        refuse(routing, attempt, refusal)
        return core.now() + LEAST_STAY if elsewhere and not refusal.final else math.inf
    core.traffic.enter(attempt.ticket, core.now())
    attempt.limiter = attempt.seat = None
    join(core, routing, attempt)
    free_at = await _at_the_model(core, routing, attempt)
    if free_at is not None:
        core.ledger.settle(routing.key(attempt.number), None)
        attempt.reserved = None
    attempt.admitted = False
    return free_at


async def _wait(
    core: Core, routing: Routing, attempt: LiveAttempt, limiter: Limiter, seat: Seat
) -> float | None:
    """Waits for a turn, as long as that is better than what else could be done. Returns as `admit`."""
    place, began = attempt.place, core.now()
    while not seat.granted:
        now = core.now()
        told, latest = is_proven(routing.fleet, place), began + core.config.recovery.attempt_timeout
        if routing.deadline_at < math.inf:  # who is let go later than that keeps others from being in time
            latest = routing.deadline_at - (HEADROOM * routing.estimate(place).work if told else 0.0)
        if seat.over:  # the queue is full
            return now + max(limiter.wait(seat.tokens, now), LEAST_STAY)
        left = limiter.left(seat, now)
        # Without a deadline nobody gains by leaving: the forecast may stand on a few slow first answers.
        hurried = told and routing.deadline_at < math.inf
        if now >= latest or (hurried and left > patience(routing.deadline_at - now, latest - now)):
            limiter.leave(seat, now)
            return max(now + left, min(routing.deadline_at, latest))
        if left > _worth_waiting(core, routing, place):
            limiter.leave(seat, now)
            return now + left
        stay = max(left * LONGER, LEAST_STAY) if told else LEAST_STAY
        await turn(limiter, seat, core.now, min(now + stay, latest))
    return None


def is_proven(fleet: Fleet, place: int) -> bool:
    """Whether answers tell how long a model takes: on a profile's word nobody is sent away."""
    return fleet.learned.samples[place] >= MEASURED_AFTER


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
        if name in shut or other in ranked.late or not affords_now(core, routing, other):
            continue
        wait, limiter = 0.0, core.limiters.get(name, routing.features.task)
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


def turned_away(core: Core, routing: Routing, attempt: LiveAttempt, error: ModelError) -> bool:
    """A backend that says that it is too much for now is asked less, before anybody else is let go.

    Told as soon as it is known; the attempt gives its place back later.

    Returns:
        Whether that is all that it means: the model is well, and its limits see to the rest.
    """
    if not isinstance(error, ModelHTTPError):
        return False
    verdict, now = judge(error), core.now()
    limited = error.status_code == _RATE_LIMITED
    profile = routing.fleet.profiles[attempt.place]
    if profile.local or not verdict.heals or not (limited or error.status_code in _BUSY_STATUSES):
        return False
    name, wait = attempt.ticket.name, verdict.retry_after
    beside = core.pressure.beside(name, now)
    if is_noise(core, attempt, error):
        return False
    if (profile.rpm, profile.tpm, profile.max_concurrency) == (None, None, None):
        if beside >= 0:
            limiter = attempt.limiter or core.learn_limit(name)
            # One that is merely full takes the next as soon as it has answered another.
            asked = wait if limited else None
            limiter.crowded(attempt.started_at, asked, now, crowded=attempt.ticket.ahead > beside)
    elif attempt.limiter is not None and attempt.seat is not None:
        attempt.limiter.refused(attempt.seat, wait, now, doubt=limited)
    if limited and (profile.rpm or profile.tpm):  # in its queue they wait for a minute anyway: no failure
        return wait is None or wait <= MINUTE
    return beside >= 0 and (wait is None or wait <= SHORT)


def is_noise(core: Core, attempt: LiveAttempt, error: ModelError) -> bool:
    """Whether a backend says that it is full, but lately answered as many at once: that tells of no limit."""
    busy = isinstance(error, ModelHTTPError) and error.status_code in _BUSY_STATUSES
    return busy and attempt.ticket.ahead <= core.pressure.beside(attempt.ticket.name, core.now())


def give_back(core: Core, attempt: LiveAttempt) -> None:
    """An attempt is over: its place is free, and its tokens are those that it took. Does no harm twice."""
    limiter, seat, now = attempt.limiter, attempt.seat, core.now()
    if limiter is None or seat is None:
        learned = core.limiters.get(attempt.ticket.name) if attempt.begun_at is not None else None
        if learned is not None:
            learned.stranger_left(now)
        return
    if attempt.outcome == "succeeded":
        limiter.answered()
    if attempt.admitted and attempt.usage is not None and attempt.usage_is_reported:
        limiter.settle(seat, attempt.usage.prompt_tokens + attempt.usage.completion_tokens, now)
    limiter.leave(seat, now, sent=attempt.admitted)
