"""When an attempt that shows no sign of life is given up for another model. No I/O.

A fixed time-out is for models of which nothing is known: nobody waits two minutes for a model that answers
within one second. It is not enough to be late, though: see `router.attempts`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from router.objective import EVEN, MEASURED_AFTER, Estimate
from router.profile import HOSTED_SPEED
from router.situations import is_silent

if TYPE_CHECKING:
    from router.core import Core
    from router.routing import Routing

__all__ = [
    "doubts",
    "is_mute",
    "is_outpaced",
    "is_to_blame",
    "last_call",
    "last_wait",
    "overdue_after",
    "stays_shut",
]

#: How sure it must be that an attempt is late, and how many times as long it is given; at least so many
#: seconds, since a moment's hiccup is cheaper to wait for than to pay for twice.
LATE, TIMES, LEAST = 0.99, 3.0, 1.0
#: The least seconds for a model that is hardly measured; it must leave several calls unanswered, besides.
UNMEASURED = 10.0
#: Unanswered calls that tell of such a model that it is mute, and not only slower than was thought.
SEVERAL = 3
#: When the deadline is near: how sure that it is late, and how sure that the next model will make it.
HURRIED, IN_TIME = 0.97, 0.95
#: How sure that a measured model is late if nothing is known of the next.
SURELY = 0.999
#: The share of the time left that it is given then, at least.
LAST_QUARTER = 0.75
#: The share of the time left that is kept in hand: answers come in the very last moment otherwise.
IN_HAND = 0.03
#: Sums of seconds are not exact.
ROUNDING = 1e-3


def overdue_after(routing: Routing, candidate: int) -> float:
    """Seconds from its beginning after which an attempt is overdue, whatever the deadline.

    Args:
        routing: The request and its decision.
        candidate: The candidate's position in the ranking.
    """
    stream, place = routing.request.stream, routing.order[candidate]
    found = routing.estimate(place)
    if _is_measured(routing, place):
        return max(TIMES * _within(found, LATE, stream=stream), LEAST)
    return max(_within(found, IN_TIME, stream=stream), UNMEASURED)


def last_call(routing: Routing, candidate: int, left: float) -> float:
    """Seconds from its beginning until the last moment at which another model can still answer in time.

    Infinite for never: without a deadline, or if that moment is gone.

    Args:
        routing: The request and its decision.
        candidate: The candidate's position in the ranking.
        left: Seconds until the deadline.
    """
    if left == math.inf:
        return math.inf
    stream, place = routing.request.stream, routing.order[candidate]
    found, after = routing.estimate(place), math.inf
    least, measured = 0.0, _is_measured(routing, place)
    unknown = not _follower_is_measured(routing, candidate)
    if measured:  # whoever was, or declares a speed, is taken at his word
        least = _within(found, HURRIED, stream=stream)
    elif _declares(routing, place):
        least = _within(found, EVEN, stream=stream)
    elif routing.rules.policy.confidence < EVEN and not unknown:
        # The app would rather have it measured than be sure of its deadlines.
        least = _within(found, HURRIED, stream=stream)
    if unknown and not (measured and _follower_declares(routing, candidate)):
        # Nobody knows what the next one needs. Once that is known, this one gets all that the next leaves:
        # else a model that takes more than half of each deadline would never be measured.
        after = max(left / 2.0, least)
        if measured:  # it is left only if that it answers at all is out of the question
            after = max(LAST_QUARTER * left, _within(found, SURELY, stream=stream))
    even = left - _following(routing, candidate, EVEN)
    hurried = (1.0 - IN_HAND) * left - _following(routing, candidate, LATE)
    if unknown or least <= even:
        # Else whoever waits that long for it has nobody to ask any more. One of whom nothing is known has its
        # time, too: to give it up as soon as it was asked would only be to ask twice.
        hurried = max(hurried, least or min(even, left / 2.0))
    if hurried <= 0.0:
        hurried = even
    if 0.0 < hurried <= even:  # else the next one would only be late, too
        after = min(after, hurried)
    return after if 0.0 < after < left else math.inf


def last_wait(routing: Routing, candidate: int, left: float) -> float:
    """Seconds from its start for which an attempt may wait for a load, a queue or a limit.

    After that only another model can answer before the deadline, whatever was predicted. Infinite for never.

    Args:
        routing: The request and its decision.
        candidate: The candidate's position in the ranking.
        left: Seconds until the deadline.
    """
    after = left - _following(routing, candidate)
    if not _follower_is_measured(routing, candidate):  # nobody knows what it needs
        after = max(after, left / 2.0)
    if after <= 0.0 or left == math.inf:
        after = left - _following(routing, candidate, EVEN)
    return after if 0.0 < after < left else math.inf


def _declares(routing: Routing, place: int) -> bool:
    return routing.fleet.profiles[place].speed != HOSTED_SPEED


def _follower_declares(routing: Routing, candidate: int) -> bool:
    return candidate + 1 < len(routing.order) and _declares(routing, routing.order[candidate + 1])


def _follower_is_measured(routing: Routing, candidate: int) -> bool:
    return candidate + 1 < len(routing.order) and _is_measured(routing, routing.order[candidate + 1])


def _following(routing: Routing, candidate: int, probability: float = IN_TIME) -> float:
    """Seconds within which the next model answers with a probability; infinite if there is none."""
    if candidate + 1 >= len(routing.order):
        return math.inf
    found = routing.estimate(routing.order[candidate + 1])
    return _within(found, probability, stream=routing.request.stream)


def is_mute(core: Core, routing: Routing, candidate: int, since: float, *, last: bool) -> bool:
    """Whether a model has shown no sign of life since a time, to anybody, while it was being asked.

    One that is hardly measured may only be slower than was thought: others must tell of it, too, or a call
    that has waited as long as several; unless this is the last moment at which another can answer in time.
    """
    place = routing.order[candidate]
    name = routing.fleet.names[place]
    flow = core.traffic.flows.get(name)
    if flow is None or flow.heard_at > since:
        return False
    return (
        last
        or _is_measured(routing, place)
        or flow.unanswered >= SEVERAL
        or core.health.opened_since(name, since)
        or flow.mute_for(core.now()) >= SEVERAL * overdue_after(routing, candidate)
    )


def is_outpaced(core: Core, routing: Routing, candidate: int) -> bool:
    """Whether the next model is known to answer in the time that is left; asked at the last moment."""
    if not _follower_is_measured(routing, candidate):
        return False
    return _following(routing, candidate) <= (routing.deadline_at - core.now()) * (1.0 + ROUNDING)


def is_to_blame(core: Core, routing: Routing, candidate: int, began: float) -> bool:
    """Whether an attempt that ends now, and showed nothing, took so long that its model is to blame.

    Whoever asks for an answer in less time than the model needs learns nothing of the model.
    """
    place, waited = routing.order[candidate], core.now() - began
    if _is_measured(routing, place):
        return waited >= overdue_after(routing, candidate)
    found = routing.estimate(place)
    usual = max(_within(found, IN_TIME, stream=routing.request.stream), LEAST)
    flow = core.traffic.flows.get(routing.fleet.names[place])
    return waited >= usual and flow is not None and flow.heard_at <= began


def doubts(core: Core, routing: Routing, candidate: int) -> bool:
    """Whether a model failed and has not answered since, or shows no sign of life."""
    fleet, place = routing.fleet, routing.order[candidate]
    name = fleet.names[place]
    flow = core.traffic.flows.get(name)
    return core.health.doubts(name) or (flow is not None and is_silent(fleet, place, flow, core.now()))


def stays_shut(core: Core, routing: Routing, candidate: int, at: float) -> bool:
    """Whether health will not let a request in at a time, as things stand; a pinned model is always asked."""
    if routing.rules.pinned is not None:
        return False
    return core.health.is_shut(routing.fleet.names[routing.order[candidate]], at)


def _is_measured(routing: Routing, place: int) -> bool:
    return routing.fleet.learned.samples[place] >= MEASURED_AFTER


def _within(found: Estimate, probability: float, *, stream: bool) -> float:
    return found.first_within(probability) if stream else found.work_within(probability)
