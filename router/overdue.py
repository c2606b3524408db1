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

__all__ = ["doubts", "is_mute", "overdue_after", "stays_shut"]

#: How sure it must be that an attempt is late, and how many times as long it is given; at least so many
#: seconds, since a moment's hiccup is cheaper to wait for than to pay for twice.
LATE, TIMES, LEAST = 0.99, 3.0, 1.0
#: The least seconds for a model that is hardly measured; it must leave several calls unanswered, besides.
UNMEASURED = 10.0
#: Unanswered calls that tell of such a model that it is mute, and not only slower than was thought.
SEVERAL = 3
#: When the deadline is near: how sure that it is late, and how sure that the next model will make it.
HURRIED, IN_TIME = 0.97, 0.95
#: A timer may ring a little early, and sums of seconds are not exact.
ROUNDING = 1e-3


def overdue_after(routing: Routing, candidate: int, left: float) -> float:
    """Seconds from its beginning after which an attempt is overdue; infinite for never.

    Args:
        routing: The request and its decision.
        candidate: The candidate's position in the ranking.
        left: Seconds until the deadline; infinite without one.
    """
    stream = routing.request.stream
    place = routing.order[candidate]
    found, measured = routing.estimate(place), _is_measured(routing, place)
    if measured:
        after = max(TIMES * _within(found, LATE, stream=stream), LEAST)
    else:
        after = max(_within(found, IN_TIME, stream=stream), UNMEASURED)
    if left < math.inf and not measured and not _follower_is_measured(routing, candidate):
        # Nobody knows what the next one needs, either; but whoever declares a speed is taken at his word.
        # Once the next is known, this one gets all that the next leaves: else a model that takes more than
        # half of each deadline would never be measured.
        declared = routing.fleet.profiles[place].speed != HOSTED_SPEED
        after = min(after, max(left / 2.0, _within(found, EVEN, stream=stream) if declared else 0.0))
    if left == math.inf:
        return after
    hurried = max(left - _following(routing, candidate), _within(found, HURRIED, stream=stream))
    if left - hurried >= _following(routing, candidate, EVEN):  # else the next one would only be late, too
        after = min(after, hurried)
    return after


def _follower_is_measured(routing: Routing, candidate: int) -> bool:
    return candidate + 1 < len(routing.order) and _is_measured(routing, routing.order[candidate + 1])


def _following(routing: Routing, candidate: int, probability: float = IN_TIME) -> float:
    """Seconds within which the next model answers with a probability; infinite if there is none."""
    if candidate + 1 >= len(routing.order):
        return math.inf
    found = routing.estimate(routing.order[candidate + 1])
    return _within(found, probability, stream=routing.request.stream)


def is_mute(core: Core, routing: Routing, candidate: int, since: float) -> bool:
    """Whether a model has shown no sign of life since a time, to anybody, while it was being asked.

    One that is hardly measured may only be slower than was thought: others must tell of it, too, unless this
    is the last moment at which another model can answer in time.
    """
    place = routing.order[candidate]
    name = routing.fleet.names[place]
    flow = core.traffic.flows.get(name)
    if flow is None or flow.heard_at > since:
        return False
    return (
        _is_measured(routing, place)
        or flow.unanswered >= SEVERAL
        or core.health.opened_since(name, since)
        or routing.deadline_at - core.now() <= _following(routing, candidate) * (1.0 + ROUNDING) < math.inf
    )


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
