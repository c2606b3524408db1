"""One world: a router's core, its backends, a chooser, and simulated time."""

from __future__ import annotations

import heapq
import math
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from router.config import Policy, Recovery, RouterConfig
from router.core import Core
from router.deciding import decide, features_of, rules_of
from router.errors import (
    AllModelsFailedError,
    ConfigurationError,
    NoEligibleModelError,
    OverloadedError,
    shown,
)
from router.exploring import explore
from router.fleet import tells_load
from router.planning import machine_of
from router.routing import Routing
from router.simulate.backends import Backend, check_backends
from router.simulate.choosers import chooser_of
from router.simulate.demand import Demand, Demands
from router.simulate.hosts import Host
from router.simulate.passage import Passage
from router.simulate.report import Report
from router.simulate.standins import stand_in
from router.simulate.tally import Tally
from router.simulate.truth import Truth

__all__ = ["World", "run"]

#: Unix time at which every simulation begins: 1 January 2026, UTC.
BEGINNING = 1_767_225_600.0
#: How often `progress` is called, in requests.
EVERY = 10_000


def run(
    workload: Demands,
    backends: Sequence[Backend],
    policy: Policy | None = None,
    *,
    recovery: Recovery | None = None,
    seed: int = 0,
    chooser: str = "router",
    until: float | None = None,
    progress: Callable[[int], None] | None = None,
) -> Report:
    """Simulates a workload: the real policy, made-up backends.

    Args:
        workload: What is asked, and when.
        backends: The models, with their true behaviour.
        policy: What matters; None: the default policy.
        recovery: What happens when attempts fail; None: the defaults.
        seed: Of all that is random: the same seed gives the same report.
        chooser: Who orders the candidates: "router", "all-knowing" or one of `BASELINES`.
        until: Seconds after which no request arrives any more; None: until the workload ends.
        progress: Called every 10,000 requests with their number.

    Returns:
        What it cost, how long it took and who got what share.

    Raises:
        ConfigurationError: if something does not fit together, or the workload never ends.
    """
    _check_workload(workload, until)
    world = World(backends, policy or Policy(), recovery or Recovery(), str(seed), chooser)
    began = time.perf_counter()
    with _seeded(seed):
        world.run(workload.demands(world.seed), math.inf if until is None else until, progress)
    return world.tally.report(chooser, seed, time.perf_counter() - began)


def _check_workload(workload: Demands, until: float | None) -> None:
    if not isinstance(workload, Demands):
        raise ConfigurationError(
            f"workload: a Workload or a Recorded is needed, not {type(workload).__name__}", field="workload"
        )
    if until is not None and not 0 < until < math.inf:
        raise ConfigurationError(
            f"until = {shown(until)}: a number of seconds above 0 is needed",
            field="until",
            value=shown(until),
        )
    if until is None and workload.endless:
        raise ConfigurationError(
            "until: the workload has no number of requests, so the run needs an end in seconds", field="until"
        )


class World:
    """Backends and a router in simulated time.

    Attributes:
        now: Seconds since the beginning.
        core: The router.
        hosts: The backends at work, in the order of the models.
        chooser: Who orders the candidates.
        seed: Of everything random.
        tally: What came of the requests so far.
    """

    def __init__(
        self, backends: Sequence[Backend], policy: Policy, recovery: Recovery, seed: str, chooser: str
    ) -> None:
        backends = check_backends(backends)
        self.now = 0.0
        self.seed = seed
        self._policy = policy
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._number = 0
        truths = [Truth(backend, seed) for backend in backends]
        asked = [tells_load(truth.profile, truth.backend.model.adapter) for truth in truths]
        self.hosts = [
            Host(truth, self, local=local, patience=recovery.ttft_timeout)
            for truth, local in zip(truths, asked, strict=True)
        ]
        models = [stand_in(host) for host in self.hosts]
        self.core = Core(RouterConfig(models=models, policy=policy, recovery=recovery), _Clock(self))
        self.core.random = random.Random(f"{seed}/explore")  # noqa: S311 - a simulation is no secret
        for place, local in enumerate(asked):
            if local:
                self.core.fleet.adapter(place)
        self._explores = chooser == "router"
        self._knows = chooser == "all-knowing"
        self.chooser = chooser_of(chooser, self.hosts, f"{seed}/chooser")
        self.tally = Tally(self.hosts, policy)

    def run(
        self, demands: Iterator[Demand], until: float, progress: Callable[[int], None] | None = None
    ) -> None:
        """Lets everything happen that is due, in the order of time, until nothing is left to happen."""
        events = self._events
        coming = next(demands, None)
        while True:
            if coming is not None and (not events or coming.at <= events[0][0]):
                if coming.at > until:
                    coming = None
                    continue
                self.now = max(coming.at, self.now)
                self._arrive(coming)
                if progress is not None and (coming.number + 1) % EVERY == 0:
                    progress(coming.number + 1)
                coming = next(demands, None)
            elif events:
                self.now, _, act = heapq.heappop(events)
                act()
            else:
                return

    def at(self, time: float, act: Callable[[], None]) -> None:
        """As `Agenda`."""
        self._number += 1
        heapq.heappush(self._events, (time, self._number, act))

    def _arrive(self, demand: Demand) -> None:
        """A request arrives: decides, and sends it on its way."""
        kind = demand.kind
        options = kind.options
        if demand.session is not None:
            options = options.model_copy(update={"session": demand.session})
        rules = rules_of(self._policy, options)
        if self._knows:
            rules = replace(rules, max_latency=None, max_ttft=None)  # it sees for itself who keeps them
        features = features_of(
            self.core, kind.request, options, rules, prompt_tokens=demand.prompt_tokens, needs=kind.needs
        )
        try:
            routing = decide(self.core, kind.request, options, rules, features, prompt=demand.prompt)
        except (NoEligibleModelError, AllModelsFailedError, OverloadedError) as error:
            reason = "not eligible" if isinstance(error, NoEligibleModelError) else "shut"
            self.tally.refused(demand, reason, self.now)
            return
        self._choose(demand, routing)
        self.tally.chosen(demand, routing)
        Passage(self, demand, routing, machine_of(self.core, routing)).begin()

    def _choose(self, demand: Demand, routing: Routing) -> None:
        if self._explores:
            explore(self.core, routing)
        else:
            routing.ranked.order[:] = self.chooser.order(demand, routing)

    def ended(self, passage: Passage) -> None:
        """A request is over."""
        self.tally.ended(passage, self.now)


class _Clock:
    """The world's time, as the core reads it."""

    def __init__(self, world: World) -> None:
        self._world = world

    def now(self) -> float:
        return self._world.now

    def time(self) -> float:
        return BEGINNING + self._world.now


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Makes the waits before repetitions repeatable: tenacity draws them from Python's shared generator."""
    before = random.getstate()
    random.seed(seed)
    try:
        yield
    finally:
        random.setstate(before)
