"""A chooser that no program can be: it knows every backend's true distribution and queue, right now."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from router.simulate.choice import Chooser

if TYPE_CHECKING:
    from router.routing import Routing
    from router.simulate.demand import Demand

__all__ = ["AllKnowing"]


class AllKnowing(Chooser):
    """Orders by the true expected objective, the wait in the queue and failures included.

    It does not know what chance will decide about this request, nor the requests to come: it is the best
    that can be done for one request after the other, not the best for all of them together. It chooses among
    the candidates that the policy's constraints, the breakers and the rate limits leave to the router, too;
    but for `max_latency` and `max_ttft`, which the router has to guess about: it knows who keeps the first,
    puts those before the others, and heeds no `max_ttft`.
    """

    def order(self, demand: Demand, routing: Routing) -> Sequence[int]:
        """Places by the true expected objective; with a limit on time, those that keep it first."""
        values: dict[int, float] = {}
        kept: dict[int, float] = {}
        failures: dict[int, float] = {}
        for place in sorted(routing.order):
            values[place], kept[place], failures[place] = self._judge(place, demand, routing)
        if any(failures.values()):
            values = self._with_failures(values, failures, routing)
        if _limit(routing) == math.inf:
            return sorted(values, key=values.__getitem__)
        sure = routing.rules.policy.confidence
        return sorted(
            values,
            key=lambda place: (0.0, values[place]) if kept[place] >= sure else (1.0, -kept[place]),
        )

    def _judge(self, place: int, demand: Demand, routing: Routing) -> tuple[float, float, float]:
        """A backend's objective if it does not fail, its chance to be in time, its chance to fail."""
        host, now = self._hosts[place], routing.began_at
        if host.truth.out(now) is not None:
            return math.inf, 0.0, 0.0
        policy, limit = routing.rules.policy, _limit(routing)
        found, wait = host.truth.expected(demand, now), host.wait()
        quality = routing.fleet.quality(demand.kind.task)[place] or 0.0
        value = found.cost + policy.value_of_time * (wait + found.latency) - policy.value_of_quality * quality
        kept = 1.0 if limit == math.inf else host.truth.in_time(demand, found, limit - wait)
        return (math.inf if math.isnan(value) else value), kept, found.failure

    def _with_failures(
        self, values: dict[int, float], failures: dict[int, float], routing: Routing
    ) -> dict[int, float]:
        """What each comes to if the best of the others takes over when it fails."""
        value_of_time = routing.rules.policy.value_of_time
        found = {}
        for place, value in values.items():
            instead = min((other for at, other in values.items() if at != place), default=value)
            lost = value_of_time * self._hosts[place].truth.backend.failure_after
            chance = failures[place]
            found[place] = value if not chance else (1 - chance) * value + chance * (lost + instead)
        return found


def _limit(routing: Routing) -> float:
    """Seconds within which a request is to be answered: its deadline or the policy's limit."""
    limits = (routing.rules.deadline, routing.rules.policy.max_latency)
    return min((limit for limit in limits if limit is not None), default=math.inf)
