"""What changes over simulated time: factors on a rate, a latency, a length or a chance of failure; outages.

A process is a declaration; `path` makes it concrete for one world. The same seed gives the same path in every
world, whoever chooses there. Times are simulated seconds since the beginning and never go back.
"""

from __future__ import annotations

import math
import random
from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import Field, model_validator

from router.declared import Declared
from router.errors import ConfigurationError
from router.values import Number

__all__ = [
    "Bursts",
    "Diurnal",
    "Drift",
    "NotNegative",
    "Outages",
    "Path",
    "Positive",
    "Process",
    "Sigma",
    "Steady",
    "joined",
]

#: What is larger or smaller is a mistake, and would let sums overflow or time stand still.
MOST, LEAST = 1e9, 1e-3

Positive = Annotated[float, Number, Field(ge=LEAST, le=MOST)]
NotNegative = Annotated[float, Number, Field(ge=0, le=MOST)]
Sigma = Annotated[float, Number, Field(ge=0, le=5)]
"""The standard deviation of a logarithm."""

Path = Callable[[float], float]
"""The factor at a time, in seconds since the beginning."""


class Process(Declared):
    """A factor that changes over time. Others declare their own on this base."""

    @property
    @abstractmethod
    def most(self) -> float:
        """The largest factor that it ever has."""

    @abstractmethod
    def path(self, seed: str) -> Path:
        """The factor over time, for one world. It is asked with times that never go back."""


class Steady(Process):
    """Always the same.

    Attributes:
        factor: What it multiplies with.
    """

    factor: NotNegative = 1.0

    @property
    def most(self) -> float:
        """As `Process`."""
        return self.factor

    def path(self, seed: str) -> Path:
        """As `Process`."""
        del seed
        return lambda _now: self.factor


class Drift(Process):
    """From 1 to a factor, in a straight line. Two of them make something come and go.

    Attributes:
        factor: What it ends at.
        start: Seconds at which it begins.
        over: Seconds that it takes; 0: at once.
    """

    factor: NotNegative
    start: NotNegative = 0.0
    over: NotNegative = 0.0

    @property
    def most(self) -> float:
        """As `Process`."""
        return max(self.factor, 1.0)

    def path(self, seed: str) -> Path:
        """As `Process`."""
        del seed
        start, over, rise = self.start, self.over, self.factor - 1.0

        def at(now: float) -> float:
            if now < start:
                return 1.0
            done = 1.0 if now >= start + over else (now - start) / over
            return 1.0 + rise * done

        return at


class Diurnal(Process):
    """A sine around 1, as of day and night.

    Attributes:
        amplitude: How far it goes up and down, as a share.
        period: Seconds of one day.
        peak: Seconds at which it is highest.
    """

    amplitude: Annotated[float, Number, Field(ge=0, le=1)]
    period: Positive = 86_400.0
    peak: NotNegative = 0.0

    @property
    def most(self) -> float:
        """As `Process`."""
        return 1.0 + self.amplitude

    def path(self, seed: str) -> Path:
        """As `Process`."""
        del seed
        amplitude, turn, peak = self.amplitude, math.tau / self.period, self.peak
        return lambda now: 1.0 + amplitude * math.cos(turn * (now - peak))


class Bursts(Process):
    """1, and now and then a factor: spells of random (exponential) length.

    Attributes:
        factor: What it is during a burst.
        every: Mean seconds between the end of one burst and the beginning of the next.
        lasting: Mean seconds of a burst.
    """

    factor: NotNegative
    every: Positive
    lasting: Positive

    @property
    def most(self) -> float:
        """As `Process`."""
        return max(self.factor, 1.0)

    def path(self, seed: str) -> Path:
        """As `Process`."""
        on = _switching(seed, self.every, self.lasting)
        factor = self.factor
        return lambda now: factor if on(now) else 1.0


class Outages(Declared):
    """When a backend gives no answer at all: at given times, or at random ones.

    Attributes:
        kind: "refuses": a connection error at once; "silent": a black hole that never answers.
        at: Windows of (start, seconds) in which it is out.
        every: Mean seconds between random outages; None: there are none.
        lasting: Mean seconds of a random outage.
    """

    kind: Literal["refuses", "silent"] = "refuses"
    at: tuple[tuple[NotNegative, Positive], ...] = ()
    every: Positive | None = None
    lasting: Positive | None = None

    if TYPE_CHECKING:  # what may be passed; pydantic turns it into what is declared above

        def __init__(
            self,
            *,
            kind: Literal["refuses", "silent"] = "refuses",
            at: Sequence[tuple[float, float]] = (),
            every: float | None = None,
            lasting: float | None = None,
        ) -> None: ...

    @model_validator(mode="after")
    def _both_or_none(self) -> Self:
        if (self.every is None) != (self.lasting is None):
            raise ConfigurationError(
                "Outages: every and lasting belong together: how often, and for how long", field="every"
            )
        return self

    def path(self, seed: str) -> Callable[[float], bool]:
        """Whether it is out at a time. It is asked with times that never go back."""
        windows = self.at
        random_ones = None
        if self.every is not None and self.lasting is not None:
            random_ones = _switching(seed, self.every, self.lasting)

        def out(now: float) -> bool:
            if random_ones is not None and random_ones(now):
                return True
            return any(start <= now < start + seconds for start, seconds in windows)

        return out


def joined(processes: Sequence[Process], seed: str) -> Path | None:
    """The product of several processes over time; None if there are none."""
    paths = [process.path(f"{seed}/{place}") for place, process in enumerate(processes)]
    if not paths:
        return None
    if len(paths) == 1:
        return paths[0]
    return lambda now: math.prod(path(now) for path in paths)


def _switching(seed: str, off: float, on: float) -> Callable[[float], bool]:
    """A switch that begins off and toggles after random times of these means."""
    rng = random.Random(seed)  # noqa: S311 - a simulation is no secret
    state = False
    until = rng.expovariate(1 / off)

    def at(now: float) -> bool:
        nonlocal state, until
        while now >= until:
            state = not state
            until += rng.expovariate(1 / (on if state else off))
        return state

    return at
