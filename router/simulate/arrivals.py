"""When requests arrive."""

from __future__ import annotations

import random
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from itertools import repeat, takewhile
from typing import TYPE_CHECKING

from pydantic import SerializeAsAny

from router.declared import Declared
from router.simulate.processes import NotNegative, Positive, Process, joined

__all__ = ["Arrivals", "AtOnce", "Poisson", "Regular"]

#: After so many candidates in a row that were dropped, the rate is 0 for good.
ENOUGH = 1_000_000


class Arrivals(Declared):
    """When requests arrive. Others declare their own on this base."""

    @abstractmethod
    def times(self, seed: str) -> Iterator[float]:
        """Seconds since the beginning, never going back; as many as there are."""


class Poisson(Arrivals):
    """At random and independently of each other.

    Attributes:
        rate: Requests per second, on average where `over_time` is 1.
        over_time: What the rate is multiplied with: days and nights (`Diurnal`), `Bursts`, growth (`Drift`).
    """

    rate: Positive
    over_time: tuple[SerializeAsAny[Process], ...] = ()

    if TYPE_CHECKING:  # what may be passed; pydantic turns it into what is declared above

        def __init__(self, *, rate: float, over_time: Sequence[Process] = ()) -> None: ...

    def times(self, seed: str) -> Iterator[float]:
        """As `Arrivals`. Thinning (Lewis and Shedler, 1979): candidates at the highest rate, some dropped."""
        rng = random.Random(seed)  # noqa: S311 - a simulation is no secret
        factor = joined(self.over_time, f"{seed}/rate")
        most = 1.0
        for process in self.over_time:
            most *= process.most
        now, highest, dropped = 0.0, self.rate * most, 0
        while highest > 0 and dropped < ENOUGH:
            now += rng.expovariate(highest)
            if factor is None or rng.random() * most < factor(now):
                dropped = 0
                yield now
            else:
                dropped += 1


class Regular(Arrivals):
    """One after the other, in equal distances; the first at 0.

    Attributes:
        every: Seconds between two.
    """

    every: Positive

    def times(self, seed: str) -> Iterator[float]:
        """As `Arrivals`."""
        del seed
        number = 0
        while True:
            yield number * self.every
            number += 1


class AtOnce(Arrivals):
    """All at the same moment: a flood.

    Attributes:
        at: Seconds at which it comes.
        before: What arrives until then; None: nothing.
    """

    at: NotNegative = 0.0
    before: SerializeAsAny[Arrivals] | None = None

    def times(self, seed: str) -> Iterator[float]:
        """As `Arrivals`."""
        if self.before is not None:
            yield from takewhile(lambda now: now < self.at, self.before.times(seed))
        yield from repeat(self.at)
