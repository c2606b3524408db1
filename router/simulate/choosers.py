"""Who orders the candidates: the router's own policy, and what others do.

All choose in the same world, among the same eligible models, and the same attempt machine calls them in
their order. Only the order differs.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from router.errors import ConfigurationError, nearest, shown
from router.simulate.choice import Chooser
from router.simulate.knowing import AllKnowing

if TYPE_CHECKING:
    from router.routing import Routing
    from router.simulate.demand import Demand
    from router.simulate.hosts import Host

__all__ = ["BASELINES", "CHOOSERS", "chooser_of"]


class _Random(Chooser):
    """Any of them."""

    def order(self, demand: Demand, routing: Routing) -> Sequence[int]:
        del demand
        places = sorted(routing.order)
        self._rng.shuffle(places)
        return places


class _RoundRobin(Chooser):
    """One after the other."""

    _turn = 0

    def order(self, demand: Demand, routing: Routing) -> Sequence[int]:
        del demand
        places = sorted(routing.order)
        first = self._turn % len(places)
        self._turn += 1
        return places[first:] + places[:first]


class _LeastBusy(Chooser):
    """The one with the fewest requests of ours under way; among equals, any."""

    def __init__(self, hosts: Sequence[Host], seed: str) -> None:
        super().__init__(hosts, seed)
        self._busy = [0] * len(hosts)

    def order(self, demand: Demand, routing: Routing) -> Sequence[int]:
        del demand
        places = sorted(routing.order)
        self._rng.shuffle(places)
        return sorted(places, key=self._busy.__getitem__)

    def started(self, place: int) -> None:
        self._busy[place] += 1

    def ended(self, place: int, seconds: float | None, *, timed_out: bool) -> None:
        del seconds, timed_out
        self._busy[place] -= 1


class _LowestLatency(Chooser):
    """The lowest mean of the last ten latencies; one that was never seen wins. LiteLLM's way.

    As there, an attempt that timed out counts as 1,000 s.
    """

    _REMEMBERED = 10
    _TIMED_OUT = 1000.0

    def __init__(self, hosts: Sequence[Host], seed: str) -> None:
        super().__init__(hosts, seed)
        self._last: list[deque[float]] = [deque(maxlen=self._REMEMBERED) for _ in hosts]
        self._mean = [0.0] * len(hosts)

    def order(self, demand: Demand, routing: Routing) -> Sequence[int]:
        del demand
        places = sorted(routing.order)
        self._rng.shuffle(places)
        return sorted(places, key=self._mean.__getitem__)

    def ended(self, place: int, seconds: float | None, *, timed_out: bool) -> None:
        latency = self._TIMED_OUT if timed_out else seconds
        if latency is not None:
            last = self._last[place]
            last.append(latency)
            self._mean[place] = sum(last) / len(last)


class _Cheapest(Chooser):
    """The lowest list price of a prompt token and an answer's token together."""

    def __init__(self, hosts: Sequence[Host], seed: str) -> None:
        super().__init__(hosts, seed)
        self._price = [_list_price(host) for host in hosts]

    def order(self, demand: Demand, routing: Routing) -> Sequence[int]:
        del demand
        return sorted(sorted(routing.order), key=self._price.__getitem__)


def _list_price(host: Host) -> float:
    price = host.truth.profile.price
    if price is None:
        return 0.0
    tier = price.at(0)
    return math.inf if tier is None else tier.input + tier.output


_ALL: dict[str, Callable[[Sequence[Host], str], Chooser]] = {
    "router": Chooser,
    "all-knowing": AllKnowing,
    "random": _Random,
    "round robin": _RoundRobin,
    "least busy": _LeastBusy,
    "lowest latency": _LowestLatency,
    "cheapest": _Cheapest,
}

CHOOSERS = tuple(_ALL)
"""Names of all choosers."""

BASELINES = ("random", "round robin", "least busy", "lowest latency", "cheapest")
"""What others do."""


def chooser_of(name: str, hosts: Sequence[Host], seed: str) -> Chooser:
    """A chooser by its name.

    Raises:
        ConfigurationError: if there is no such chooser.
    """
    if name not in _ALL:
        raise ConfigurationError(
            f"chooser = {shown(name)}: no such chooser{nearest(name, CHOOSERS)}",
            field="chooser",
            value=shown(name),
        )
    return _ALL[name](hosts, seed)
