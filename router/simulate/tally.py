"""Counts what becomes of the requests of a world, in constant memory."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from router.config import Policy
from router.simulate.histogram import Histogram
from router.simulate.report import Report
from router.simulate.truth import dollars

if TYPE_CHECKING:
    from router.routing import Routing
    from router.simulate.demand import Demand
    from router.simulate.hosts import Host
    from router.simulate.passage import Passage

__all__ = ["Tally"]


class Tally:
    """Sums and histograms over all requests."""

    def __init__(self, hosts: Sequence[Host], policy: Policy) -> None:
        self._hosts = hosts
        self._policy = policy
        self._latency, self._ttft = Histogram(), Histogram()
        self._requests = self._answered = self._attempts = 0
        self._cost = self._objective = 0.0
        self._lost: dict[str, int] = {}
        self._shares = [0] * len(hosts)
        self._with_deadline = self._in_time = 0
        self._explored = 0
        self._followed = self._switched = 0
        self._last: dict[str | None, int] = {}
        self._ended_at = 0.0

    def chosen(self, demand: Demand, routing: Routing) -> None:
        """A request's candidates are in order."""
        first = routing.order[0]
        task = demand.kind.task
        before = self._last.get(task)
        if before is not None:
            self._followed += 1
            self._switched += before != first
        self._last[task] = first
        if routing.notes and any(note.startswith("explored") for note in routing.notes):
            self._explored += 1

    def refused(self, demand: Demand, reason: str, now: float) -> None:
        """No model may take a request, or all that may are left alone for now."""
        self._ended_at = now
        self._requests += 1
        self._with_deadline += demand.kind.options.deadline is not None
        self._lose(demand, reason, 0.0, 0.0, now)

    def ended(self, passage: Passage, now: float) -> None:
        """A request is over."""
        demand, routing, winner = passage.demand, passage.routing, passage.winner
        self._ended_at = now
        self._requests += 1
        deadline = routing.options.deadline
        self._with_deadline += deadline is not None
        cost = 0.0
        for attempt in passage.attempts:
            if attempt.cost is not None:
                cost += float(attempt.cost)
            self._attempts += attempt.outcome != "refused"
        self._cost += cost
        if passage.ending is not None or winner is None or winner.ended_at is None:
            self._lose(demand, passage.ending or "failed", cost, now - routing.began_at, now)
            return
        latency = winner.ended_at - routing.began_at
        first = latency if winner.visible_at is None else winner.visible_at - routing.began_at
        self._answered += 1
        self._latency.add(latency)
        self._ttft.add(first)
        self._shares[winner.place] += 1
        if deadline is not None:
            self._in_time += latency <= deadline
        quality = routing.fleet.quality(demand.kind.task)[winner.place] or 0.0
        self._objective += self._worth(cost, latency, quality)

    def _worth(self, cost: float, latency: float, quality: float) -> float:
        policy = self._policy
        return cost + policy.value_of_time * latency - policy.value_of_quality * quality

    def _lose(self, demand: Demand, reason: str, cost: float, seconds: float, now: float) -> None:
        """A request without an answer costs what the dearest model would have, and no less than it did."""
        self._lost[reason] = self._lost.get(reason, 0) + 1
        self._objective += max(self._dearest(demand, now), self._worth(cost, seconds, 0.0))

    def _dearest(self, demand: Demand, now: float) -> float:
        """The objective of the model on which this very request would have come dearest, without a queue."""
        worst = -math.inf
        for host in self._hosts:
            service = host.truth.serve(demand, demand.first, now)
            quality = _quality(host, demand.kind.task)
            cost = dollars(
                host.truth.profile,
                service.prompt_tokens,
                service.cached_tokens,
                service.completion_tokens,
                service.total,
            )
            if not math.isnan(cost):
                worst = max(worst, self._worth(cost, service.total, quality))
        return worst if math.isfinite(worst) else 0.0

    def report(self, chooser: str, seed: int, wall_seconds: float) -> Report:
        """What came of all of them."""
        names = [host.truth.backend.name for host in self._hosts]
        requests = self._requests
        return Report(
            chooser=chooser,
            seed=seed,
            requests=requests,
            answered=self._answered,
            lost=dict(sorted(self._lost.items())),
            cost=self._cost,
            objective=_share(self._objective, requests),
            latency=self._latency.percentiles(),
            ttft=self._ttft.percentiles(),
            shares={
                name: _share(count, self._answered) for name, count in zip(names, self._shares, strict=True)
            },
            attempts=_share(self._attempts, requests),
            in_time=_share(self._in_time, self._with_deadline) if self._with_deadline else None,
            switches=_share(self._switched, self._followed),
            explored=_share(self._explored, requests),
            seconds=self._ended_at,
            wall_seconds=wall_seconds,
        )


def _share(part: float, whole: int) -> float:
    return part / whole if whole else math.nan


def _quality(host: Host, task: str | None) -> float:
    table = host.truth.profile.quality
    return table.get(task or "default", table.get("default", 0.0))
