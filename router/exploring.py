"""Exploration: now and then, a model that may well be better than is known gets a request.

It comes after the ranking, and only reorders what every constraint has left in it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from router.estimates import LENGTH_DOUBT, price_parts
from router.learning.pace import HOPE
from router.objective import MEASURED_AFTER, objective

if TYPE_CHECKING:
    from router.core import Core
    from router.routing import Routing

__all__ = ["explore"]

#: A model with fewer answers than this is "little known of": exploration may pick it.
KNOWN_AFTER = 20
#: How far our own count of a prompt may be from that of a vocabulary not met yet: as `LENGTH_DOUBT`.
COUNT_DOUBT = 0.2
#: Candidates that exploration looks at.
MOST_EXPLORED = 64


def explore(core: Core, routing: Routing) -> None:
    """Now and then puts a model first that may well be better than is known. Breaks no constraint.

    A model may be better if it would be the best were it as good as can be hoped for: as fast, as terse and
    as sparing with a prompt's tokens as its figures are uncertain. One whose price alone makes it dearer is
    never tried. (Optimism in the face of uncertainty, as UCB has it, for a bounded share of requests.)
    """
    policy = core.config.policy
    share = policy.explore if policy.rank_by == "objective" else 0.0
    if not share or len(routing.order) < 2 or core.random.random() >= share:  # noqa: PLR2004 - a choice
        return
    left_out = routing.ranked.late.union(routing.ranked.now.silent, routing.ranked.despite)
    on_time = [place for place in routing.order if place not in left_out]
    if len(on_time) < 2:  # noqa: PLR2004 - nothing to choose from
        return
    place = (_least_known if policy.utility is not None else _most_promising)(core, routing, on_time)
    if place is not None:
        routing.ranked.order.remove(place)
        routing.ranked.order.insert(0, place)
        routing.notes = (*routing.notes, "explored: it may be better than is known yet")


def _least_known(_core: Core, routing: Routing, on_time: Sequence[int]) -> int | None:
    """The model with the fewest answers, if they are few: an app's own utility tells no more."""
    samples = routing.fleet.learned.samples
    place = min(on_time[1:], key=lambda place: samples[place])
    return place if samples[place] < KNOWN_AFTER else None


def _most_promising(core: Core, routing: Routing, on_time: Sequence[int]) -> int | None:
    """The model that would be the best if all went as well as can be hoped, if there is one."""
    fleet, features, policy, now = routing.fleet, routing.features, core.config.policy, core.now()
    quality = fleet.quality(features.task)
    outputs = fleet.learned.forecasts.outputs(features.task)

    def hoped(place: int) -> float:
        found = routing.estimate(place)
        seen = outputs.seen.get(place, 0)
        terse = math.exp(-HOPE * LENGTH_DOUBT / math.sqrt(1.0 + seen))
        # What a profile says of a speed is no measurement: until there are some, nothing is ruled out.
        measured = fleet.learned.samples[place] >= MEASURED_AFTER
        fast = math.exp(-fleet.learned.hope(place, now)) if measured else 0.0
        sparing = math.exp(-HOPE * COUNT_DOUBT / math.sqrt(1.0 + fleet.learned.samples[place]))
        parts = price_parts(fleet, place, features, found)
        prompt, answer = parts.get("prompt USD", 0.0), parts.get("answer USD", 0.0)
        cost = found.cost if math.isfinite(found.cost) else 0.0
        best = found._replace(
            cost=cost - (1.0 - terse) * answer - (1.0 - sparing) * prompt,
            latency=found.wait + (found.first + found.decode * terse) * fast,
        )
        return objective(policy, best, quality[place])

    first = on_time[0]
    known = objective(policy, routing.estimate(first), quality[first])
    hopes = {place: hoped(place) for place in on_time[1:MOST_EXPLORED]}
    place = min(hopes, key=hopes.__getitem__)
    return place if hopes[place] < known else None
